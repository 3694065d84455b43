"""The logs and progress bars of the libraries that load models."""

import importlib


def silence_library_logs() -> None:
    """One progress bar per stage is enough: no bars of the libraries for every model they load."""
    for library in ("diffusers", "transformers"):
        logging = importlib.import_module(f"{library}.utils.logging")
        logging.set_verbosity_error()
        logging.disable_progress_bar()
