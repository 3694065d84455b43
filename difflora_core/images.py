"""Images in: files, PIL images, arrays and tensors become upright RGB images, or an error says why not.

Transparency is left out wherever it occurs, and the colors below it show: ComfyUI's Load Image hands them to a node, so
that the same file is the same image in a node, in a command and in the library.
"""

import io
import math
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from .files import replacing

KINDS = ("jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "gif", "tif", "tiff", "avif", "jp2", "ppm", "pgm")
SUFFIXES = frozenset(f".{kind}" for kind in KINDS)
"""Suffixes of image files, in lower case."""
MAX_PIXELS = 128_000_000
"""512 MB in Pillow, which has 4 bytes per pixel; a TIFF in one strip takes 384 MB more while it is decoded."""
LARGE_PIXELS = 32_000_000
"""Above, an image is made smaller as soon as it is decoded, so that copies in other modes don't count."""
MAX_PIXELS_PER_BYTE = 100
"""Of a file above `LARGE_PIXELS`; photos have less than 30. A file of kilobytes can claim gigabytes ("decompression
bomb")."""
STRIP_ROWS = 64
"""Rows of the smaller image that are made at a time."""
MAX_NAMES = 5
"""Files that are passed over and named; of the others there is the count."""
LONGEST_SIDE = 2560
"""Of references, in pixels; larger ones are reduced. Four times the detector's input: a face that is smaller than
a recognizer's crop in it has less than 28 pixels in the detector."""
MIN_SIDE, MAX_ASPECT_RATIO = 16, 16.0
"""Shorter side in pixels, longer side over shorter side: nothing beyond is large enough for a face."""

ImageSource = Image.Image | np.ndarray | Tensor | str | Path
"""An image: PIL's; uint8 (height, width, 3) RGB; a float tensor (height, width, channels) in [0, 1]; or a file."""


def rgb_array(source: ImageSource, name: str) -> np.ndarray:
    """Return an image as uint8 (height, width, 3) RGB.

    Args:
        source: The image; of a tensor's channels 1 is gray and 4 has alpha. Files are read by `read_image`.
        name: What errors call it.

    Raises:
        ValueError: It is of another form, holds NaN, or can't be read; it is named.
    """
    if isinstance(source, str | Path):
        return np.asarray(read_image(source, name))
    if isinstance(source, Tensor):
        return _from_tensor(source, name)
    if isinstance(source, Image.Image):
        return np.asarray(_usable(lambda: _rgb(_upright(source)), name))
    array = np.asarray(source)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3 or 0 in array.shape:
        raise ValueError(
            f"{name} is {array.dtype} {array.shape}, expected a file, a PIL image, a uint8 array (height, width, 3) or "
            "a float tensor in [0, 1]."
        )
    return array


def _from_tensor(image: Tensor, name: str) -> np.ndarray:
    if image.ndim != 3 or 0 in image.shape or image.shape[-1] not in (1, 3, 4) or not image.is_floating_point():
        raise ValueError(f"{name} is {image.dtype} {tuple(image.shape)}, expected floats (height, width, 3) in [0, 1].")
    if not image.isfinite().all():
        raise ValueError(f"{name} holds NaN or infinite values: what made it is broken.")
    return _eight_bit_rgb(image.expand(-1, -1, 3) if image.shape[-1] == 1 else image[..., :3])


def _eight_bit_rgb(image: Tensor) -> np.ndarray:
    return image.mul(255).round_().clamp_(0, 255).byte().cpu().numpy()


def image_list(batches: Sequence[Tensor] | Tensor) -> list[Tensor]:
    """Check batches of images of any sizes and take them apart.

    Args:
        batches: One batch or several, each as `image_batch` takes it.

    Returns:
        Their images in order, each (height, width, 3) RGB; those with a side above `LONGEST_SIDE` are made smaller, see
        `not_huge`.

    Raises:
        ValueError: As `image_batch`; there is no batch.
    """
    batches = [batches] if isinstance(batches, Tensor) else batches
    images = [image for batch in batches for image in _rgb_channels(batch)]
    if not images:
        raise ValueError("at least one image is needed, found an empty list")
    _check_finite(images)
    return [_tensor_not_huge(image) for image in images]


def _tensor_not_huge(image: Tensor) -> Tensor:
    if max(image.shape) <= LONGEST_SIDE:
        return image
    return torch.from_numpy(not_huge(_eight_bit_rgb(image))).to(image) / 255.0


def not_huge(array: np.ndarray) -> np.ndarray:
    """Reduce an image, uint8 (height, width, 3), to `LONGEST_SIDE`, by averaging."""
    scale = LONGEST_SIDE / max(array.shape)
    if scale >= 1.0:
        return array
    height, width = (max(1, round(scale * side)) for side in array.shape[:2])
    return np.array(Image.fromarray(array).resize((width, height), Image.Resampling.BOX))


def image_batch(images: Tensor) -> Tensor:
    """Check a batch of images.

    Args:
        images: Floats (images, height, width, channels) in [0, 1], channels 1 (gray, repeated), 3, or 4 (alpha, left
            out).

    Returns:
        (images, height, width, 3) RGB.

    Raises:
        ValueError: It is no batch of images, is empty, or holds NaN or infinite values.
    """
    rgb = _rgb_channels(images)
    _check_finite(rgb)
    return rgb


def _rgb_channels(images: Tensor) -> Tensor:
    if not isinstance(images, Tensor):
        raise ValueError(f"Images are a tensor (images, height, width, 3), found {type(images).__name__}.")
    if images.ndim != 4 or 0 in images.shape or images.shape[-1] not in (1, 3, 4) or not images.is_floating_point():
        raise ValueError(
            "Images are floats (images, height, width, 3) with at least one image, found "
            f"{tuple(images.shape)} of {images.dtype}."
        )
    return images.expand(*images.shape[:3], 3) if images.shape[-1] == 1 else images[..., :3]


def _check_finite(images: Sequence[Tensor] | Tensor) -> None:
    for number, image in enumerate(images, start=1):
        if not image.isfinite().all():
            raise ValueError(
                f"image {number} of {len(images)} holds NaN or infinite values: the node before made a broken image."
            )


def read_image(source: str | Path | bytes, name: str = "") -> Image.Image:
    """Read an image file in mode RGB, 8 bits a channel, turned as its EXIF orientation says, without metadata.

    Of an animation the first frame is taken, 16 bits are scaled to 8, and above 32 million pixels blocks of pixels are
    averaged. It takes less than 1 GB of memory.

    Args:
        source: A file or its content.
        name: What errors call it, else the file's name.

    Raises:
        ValueError: It can't be read, or is too large or too small; the image and what is wrong with it are named.
    """
    name = printable(name or (str(source) if not isinstance(source, bytes) else "the image"))
    if isinstance(source, bytes):
        opened: Path | io.BytesIO = io.BytesIO(source)
        size = len(source)
    else:
        opened = Path(source)
        if not opened.is_file():  # a pipe would be waited for without end
            raise ValueError(f"{name} is not there or not a file")
        size = opened.stat().st_size
    if size == 0:
        raise ValueError(f"{name} is empty")
    return _usable(lambda: _rgb(_decode(opened, size)), name)


def _decode(source: Path | io.BytesIO, file_size: int) -> Image.Image:
    with Image.open(source) as image:
        _check_size(image.size, file_size)
        image.load()
        return _upright(image)


def _usable(read: Callable[[], Image.Image], name: str) -> Image.Image:
    """Run what makes an image; whatever a decoder raises becomes an error that names the image."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of size, where a limit of our own is checked, and of odd metadata
            return read()
    except UnidentifiedImageError:
        raise ValueError(f"{name} is no image, or of a kind that Pillow cannot read") from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name} is too large: {error}") from error
    except _UnusableError as error:
        raise ValueError(f"{name} {error}") from error
    except MemoryError as error:
        raise ValueError(f"{name} needs more memory than there is") from error
    except Exception as error:  # a damaged file makes a decoder raise almost anything
        raise ValueError(f"{name} is damaged or cut off: {printable(str(error)) or type(error).__name__}") from error


class _UnusableError(ValueError):
    """An image that can be read but not used; the message continues after the image's name."""


def _check_size(size: tuple[int, int], file_size: int) -> None:
    width, height = size
    if width * height > max(LARGE_PIXELS, MAX_PIXELS_PER_BYTE * file_size):
        raise _UnusableError(
            f"is too large: {width} × {height} pixels in a file of {file_size:,} bytes, which no photo has; save it "
            "again with fewer pixels"
        )
    if width * height > MAX_PIXELS:
        raise _UnusableError(
            f"is too large: {width} × {height} pixels, at most {MAX_PIXELS // 1_000_000} million are read; make "
            "it smaller"
        )
    if min(size) < MIN_SIDE or max(size) > MAX_ASPECT_RATIO * min(size):
        raise _UnusableError(f"has {width} × {height} pixels: too small or too narrow for a face")


def _upright(image: Image.Image) -> Image.Image:
    """Make a large image smaller, and turn it as its EXIF orientation says."""
    smaller = _reduced(image) if image.width * image.height > LARGE_PIXELS else image
    try:
        return ImageOps.exif_transpose(smaller)
    except Exception:  # the pixels are whole; only the orientation is unknown where EXIF data is damaged
        return smaller


def _reduced(image: Image.Image) -> Image.Image:
    """Average blocks of pixels, strip by strip, so that no second image of full size is made."""
    factor = math.ceil(math.sqrt(image.width * image.height / LARGE_PIXELS))
    mode = {"I": "I", "F": "F"}.get(image.mode[0], "RGB")
    made = Image.new(mode, (math.ceil(image.width / factor), math.ceil(image.height / factor)))
    for top in range(0, made.height, STRIP_ROWS):
        bottom = min((top + STRIP_ROWS) * factor, image.height)
        strip = image.crop((0, top * factor, image.width, bottom))
        made.paste(strip.convert(mode).reduce(factor), (0, top))
    made.info = dict(image.info)  # has the EXIF orientation
    return made


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        image = Image.fromarray(_eight_bits(np.asarray(image)))
    # A new image: no file behind it, no EXIF that a writer would copy
    return Image.fromarray(np.asarray(image.convert("RGB")))


def _eight_bits(gray: np.ndarray) -> np.ndarray:
    """Scale gray values (height, width) to uint8; they are 16-bit integers, or floats in 0…1 or 0…255."""
    values = gray.astype(np.float64)
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 65535:
        raise _UnusableError("has gray values beyond 0 … 65535")
    floats = gray.dtype.kind == "f"
    largest = 1.0 if floats and values.max() <= 1 else 255.0 if floats and values.max() <= 255 else 65535.0
    return np.round(values * (255.0 / largest)).astype(np.uint8)


def is_image(path: Path) -> bool:
    """Whether a file is taken for an image, by its suffix; hidden files (thumbnails, `._photo.jpg`) are not."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def visible(folder: Path) -> list[Path]:
    """List what a folder holds, sorted, but hidden files.

    Raises:
        ValueError: A link leads nowhere, for instance to a disk that is not there: it would be passed over.
    """
    inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if dead := next((path for path in inside if path.is_symlink() and not path.exists()), None):
        name, target = printable(str(dead)), printable(os.readlink(dead))
        raise ValueError(f"{name} is a link to {target}, which is not there: correct or delete it")
    return inside


def describe_passed_over(names: Sequence[str]) -> str:
    """Say which files of a folder are not taken for images: "3 files passed over: a.heic, b.jxl, c"."""
    shown = ", ".join(printable(name) for name in names[:MAX_NAMES]) + (", …" if len(names) > MAX_NAMES else "")
    return f"{len(names)} file{'s' * (len(names) != 1)} passed over: {shown}; images are {', '.join(KINDS)}"


def write_image(path: Path, image: Image.Image) -> None:
    """Write a PNG file, whole or not at all."""
    with replacing(path) as partial:
        image.save(partial, format="PNG")


def printable(text: str) -> str:
    """Escape control characters and undecodable bytes, so that text fits one line of a message or a UTF-8 file."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
    return shown.encode("utf-8", "backslashreplace").decode()
