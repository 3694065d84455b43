"""Reading other people's pictures: whatever it is, out comes an upright RGB picture or a reason why not."""

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .files import replacing

KINDS = ("jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "gif", "tif", "tiff", "avif", "jp2", "ppm", "pgm")
SUFFIXES = frozenset(f".{kind}" for kind in KINDS)
MAX_PIXELS = 128_000_000  # 384 MB as RGB; a file of some kilobytes may claim to be far larger ("decompression bomb")
MIN_SIDE, MAX_ASPECT_RATIO = 16, 16.0  # of a side in pixels, of the sides: nothing beyond has room for a face


def read_picture(source: str | Path | bytes, name: str = "") -> Image.Image:
    """A picture in mode RGB, 8 bits a channel, turned as its EXIF orientation says, without metadata.

    Of an animation the first frame is taken, transparent parts become white, 16 bits are scaled to 8.
    source: a file or its content. name: of the picture in errors, else the file's.
    Raises ValueError that names the picture and what is wrong with it.
    """
    name = printable(name or (str(source) if not isinstance(source, bytes) else "the picture"))
    if isinstance(source, bytes):
        if not source:
            raise ValueError(f"{name} is empty")
        return _read(io.BytesIO(source), name)
    path = Path(source)
    if not path.is_file():  # a pipe would be waited for without end
        raise ValueError(f"{name} is not there or not a file")
    if path.stat().st_size == 0:
        raise ValueError(f"{name} is empty")
    return _read(path, name)


def _read(source: Path | io.BytesIO, name: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of size, where a limit of our own is checked, and of odd metadata
            with Image.open(source) as image:
                _check_size(image.size)
                image.load()
                return _rgb(_upright(image))
    except UnidentifiedImageError:
        raise ValueError(f"{name} is no picture, or of a kind that Pillow cannot read") from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name} is too large: {error}") from error
    except _Refused as error:
        raise ValueError(f"{name} {error}") from error
    except MemoryError as error:
        raise ValueError(f"{name} needs more memory than there is") from error
    except Exception as error:  # a damaged file makes a decoder raise almost anything
        raise ValueError(f"{name} is damaged or cut off: {printable(str(error)) or type(error).__name__}") from error


class _Refused(ValueError):
    """A picture that can be read, and is of no use; the message goes on after the picture's name."""


def _check_size(size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise _Refused(
            f"is too large: {width} × {height} pixels, at most {MAX_PIXELS // 1_000_000} million are read; make "
            "it smaller"
        )
    if min(size) < MIN_SIDE or max(size) > MAX_ASPECT_RATIO * min(size):
        raise _Refused(f"has {width} × {height} pixels: no room for a face")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # the pixels are whole; damaged EXIF data only means that nobody knows the orientation
        return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        image = Image.fromarray(_eight_bits(np.asarray(image)))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    # A picture of its own: no file behind it, no EXIF that a writer would copy.
    return Image.fromarray(np.asarray(image.convert("RGB")))


def _eight_bits(grey: np.ndarray) -> np.ndarray:
    """Grey values of more than 8 bits, (height, width), as uint8: 16-bit numbers, or floats in 0…1 or 0…255."""
    values = grey.astype(np.float64)
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 65535:
        raise _Refused("has grey values beyond 0 … 65535")
    floats = grey.dtype.kind == "f"
    largest = 1.0 if floats and values.max() <= 1 else 255.0 if floats and values.max() <= 255 else 65535.0
    return np.round(values * (255.0 / largest)).astype(np.uint8)


def write_picture(path: Path, picture: Image.Image) -> None:
    """Write a PNG; it is there whole or not at all."""
    with replacing(path) as partial:
        picture.save(partial, format="PNG")


def printable(text: str) -> str:
    """Text for one line of a message or a UTF-8 file: control characters and undecodable bytes become escapes."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
    return shown.encode("utf-8", "backslashreplace").decode()
