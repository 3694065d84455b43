"""The logs and progress bars of the libraries that load models."""

import importlib


def silence_library_logs() -> None:
    """Turn off what diffusers and transformers print for every model they load: warnings and progress bars."""
    for library in ("diffusers", "transformers"):
        logging = importlib.import_module(f"{library}.utils.logging")
        logging.set_verbosity_error()
        logging.disable_progress_bar()
