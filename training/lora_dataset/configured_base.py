"""The base model that a configuration names. Another kind is chosen here, and for the evaluation in `shared_base`."""

from difflora_core.lora.layout import LoRALayout
from training.base_model.interface import DTYPES, BaseModel
from training.base_model.sdxl import PIXELS_PER_LATENT, SDXLBase
from training.base_model.sdxl_folder import folder_fingerprint, folder_latent_channels, folder_layout

from .config import DatasetConfig
from .fingerprints import hash_value


def open_configured_base(config: DatasetConfig, device: str, unet_alone: bool = False) -> BaseModel:
    """Load the base model, or only its U-Net to the device; see `SDXLBase.open`.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: The folder holds another model.
    """
    return SDXLBase.open(config.base, device, DTYPES[config.dreambooth.dtype], unet_alone)


def configured_layout(config: DatasetConfig) -> LoRALayout:
    """Return the layout of the configured teachers, from the base model's configuration alone.

    Raises:
        FileNotFoundError: The base model has no configuration of a U-Net.
    """
    return folder_layout(config.base, config.dreambooth.rank, config.dreambooth.feed_forward)


def configured_latent_shape(config: DatasetConfig) -> tuple[int, int, int]:
    """Return (channels, height, width) of a training image's latent, from the base model's configuration alone.

    Raises:
        FileNotFoundError: The base model has no configuration of a U-Net.
    """
    side = config.preprocess.size // PIXELS_PER_LATENT
    return folder_latent_channels(config.base), side, side


def configured_fingerprint(config: DatasetConfig) -> dict[str, str]:
    """Return the base model's name and a hash by which fine-tuned models differ."""
    return folder_fingerprint(config.base)


def hash_base(config: DatasetConfig, *networks: str) -> str:
    """Hash samples of the weights of some of the base model's networks, named as their folders."""
    found = folder_fingerprint(config.base, networks)
    return hash_value([found[network] for network in networks])
