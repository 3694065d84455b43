"""Images of every awkward kind, written by Pillow."""

import errno
import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from difflora_core.images import LONGEST_SIDE, image_batch, image_list, printable, read_image, rgb_array, write_image


@pytest.fixture
def gradient() -> Image.Image:
    """Red grows to the right, green downwards: (48, 32) pixels, so that turns and swapped channels show."""
    pixels = np.zeros((32, 48, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 255, 48).round()[None]
    pixels[..., 1] = np.linspace(0, 255, 32).round()[:, None]
    pixels[..., 2] = 40
    return Image.fromarray(pixels)


def difference(a: Image.Image, b: Image.Image) -> float:
    """Largest difference of two images' pixels, in gray values of 0 to 255."""
    return float(np.abs(np.asarray(a, np.int16) - np.asarray(b, np.int16)).max())


def test_a_plain_image_is_unchanged(gradient, tmp_path):
    gradient.save(tmp_path / "a.png")
    assert difference(read_image(tmp_path / "a.png"), gradient) == 0


def test_bytes_are_read_like_files(gradient):
    content = io.BytesIO()
    gradient.save(content, "PNG")
    assert difference(read_image(content.getvalue()), gradient) == 0


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(gradient, tmp_path, orientation):
    turns = Image.Transpose
    undo = {
        1: None, 2: turns.FLIP_LEFT_RIGHT, 3: turns.ROTATE_180, 4: turns.FLIP_TOP_BOTTOM, 5: turns.TRANSPOSE,
        6: turns.ROTATE_90, 7: turns.TRANSVERSE, 8: turns.ROTATE_270,
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = gradient if undo is None else gradient.transpose(undo)
    stored.save(tmp_path / "a.png", exif=exif)
    read = read_image(tmp_path / "a.png")
    assert read.size == gradient.size
    assert difference(read, gradient) == 0
    assert not read.getexif()


def test_an_animation_gives_its_first_frame(gradient, tmp_path):
    second = Image.new("RGB", gradient.size, "blue")
    gradient.save(tmp_path / "a.webp", save_all=True, append_images=[second], lossless=True)
    with Image.open(tmp_path / "a.webp") as image:
        assert image.n_frames == 2
    assert difference(read_image(tmp_path / "a.webp"), gradient) == 0


def test_cmyk(gradient, tmp_path):
    gradient.convert("CMYK").save(tmp_path / "a.jpg", quality=100, subsampling=0)
    assert difference(read_image(tmp_path / "a.jpg"), gradient) < 12


@pytest.mark.parametrize("largest", [65535, 200])
def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path, largest):
    gray = np.linspace(0, largest, 32 * 48).astype(np.uint16).reshape(32, 48)
    Image.fromarray(gray).save(tmp_path / "a.png")
    assert np.abs(np.asarray(read_image(tmp_path / "a.png"))[..., 0] - gray / 257.0).max() <= 1


@pytest.mark.parametrize("largest", [1.0, 255.0])
def test_floats_are_scaled(tmp_path, largest):
    Image.fromarray(np.linspace(0, largest, 32 * 48, dtype=np.float32).reshape(32, 48)).save(tmp_path / "a.tiff")
    read = np.asarray(read_image(tmp_path / "a.tiff"))
    assert (read.min(), read.max()) == (0, 255)


def test_a_palette(gradient, tmp_path):
    palette = gradient.quantize(16)
    palette.save(tmp_path / "a.gif")
    assert difference(read_image(tmp_path / "a.gif"), palette.convert("RGB")) == 0


def test_transparency_is_left_out_in_every_form(gradient, tmp_path):
    """As ComfyUI's Load Image does, so that a file is the same image in a node and in the command."""
    pixels = np.asarray(gradient).copy()
    alpha = Image.new("L", gradient.size, 255)
    alpha.paste(0, (0, 0, 24, 32))
    gradient.putalpha(alpha)
    gradient.save(tmp_path / "a.png")
    gradient.save(tmp_path / "a.webp", lossless=True, exact=True)
    for name in ("a.png", "a.webp"):
        with Image.open(tmp_path / name) as opened:
            shown = np.asarray(opened.convert("RGB"))  # what Load Image does
            tensor = torch.from_numpy(np.asarray(opened)).float() / 255
        assert (shown == pixels).all()
        for source in (tmp_path / name, gradient, tensor):
            assert (rgb_array(source, "photo") == pixels).all()
    palette = Image.fromarray(pixels).quantize(16)
    palette.save(tmp_path / "a.gif", transparency=3)
    assert difference(read_image(tmp_path / "a.gif"), palette.convert("RGB")) == 0


def test_gray_and_bitmaps(tmp_path):
    Image.new("1", (32, 32), 1).save(tmp_path / "bits.png")
    Image.new("L", (32, 32), 77).save(tmp_path / "gray.png")
    assert (np.asarray(read_image(tmp_path / "bits.png")) == 255).all()
    assert (np.asarray(read_image(tmp_path / "gray.png")) == 77).all()


def test_damaged_exif_does_not_cost_the_image(gradient, tmp_path):
    gradient.save(tmp_path / "a.png", exif=b"Exif\x00\x00nothing of the kind")
    assert difference(read_image(tmp_path / "a.png"), gradient) == 0


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG file of a few bytes with a header of that size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [6_000, 11_000, 12_000, 60_000])  # the last is beyond what Pillow itself refuses
def test_a_decompression_bomb_is_refused_before_it_is_unpacked(side):
    with pytest.raises(ValueError, match="bomb is too large"):
        read_image(png_that_claims(side, side), "bomb")


def test_a_tiff_that_claims_much_is_refused(tmp_path):
    Image.new("L", (8_000, 8_000)).save(tmp_path / "a.tiff", compression="tiff_adobe_deflate")
    assert (tmp_path / "a.tiff").stat().st_size < 300_000
    with pytest.raises(
        ValueError, match=r"a\.tiff is too large: 8000 × 8000 pixels in a file of .* bytes, which no photo"
    ):
        read_image(tmp_path / "a.tiff")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "I;16", "F"])
def test_a_large_image_is_made_smaller_at_once(gradient, tmp_path, monkeypatch, mode):
    """At a hundredth of the limits; 1000 × 700 pixels become a third of each side, and turn as their EXIF data says."""
    monkeypatch.setattr("difflora_core.images.LARGE_PIXELS", 100_000)
    monkeypatch.setattr("difflora_core.images.MAX_PIXELS_PER_BYTE", 1000)  # a gradient is smaller than any photo
    monkeypatch.setattr("difflora_core.images.STRIP_ROWS", 50)
    large = gradient.resize((1000, 700), Image.Resampling.BICUBIC)
    expected = large.resize((334, 234), Image.Resampling.BOX)
    if mode in ("I;16", "F"):
        gray = np.asarray(large.convert("L")).astype(np.uint16 if mode == "I;16" else np.float32)
        saved, expected = Image.fromarray(gray * 257 if mode == "I;16" else gray), expected.convert("L")
    else:
        saved, expected = large.convert(mode), expected.convert("L") if mode == "L" else expected
    exif = Image.Exif()
    exif[0x0112] = 3
    path = tmp_path / ("a.tiff" if mode == "F" else "a.png")
    saved.save(path, **({} if mode == "F" else {"exif": exif}))
    read = read_image(path)
    assert read.size == (334, 234)
    if mode != "F":
        read = read.transpose(Image.Transpose.ROTATE_180)
    inside = (3, 3, 330, 230)  # the last block of a side is cut off
    tolerance = 30 if mode == "P" else 4
    assert difference(read.crop(inside), expected.convert("RGB").crop(inside)) <= tolerance


def test_decoding_takes_less_memory_than_is_said(tmp_path):
    """Of the largest image that is read, in a process of its own."""
    code = (
        "import resource, sys; from PIL import Image; from difflora_core.images import rgb_array\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(rgb_array(sys.argv[1], 'x').shape, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    path = tmp_path / "a.png"
    blocks = np.random.default_rng(0).integers(0, 255, (176, 176, 3), np.uint8)
    Image.fromarray(blocks).resize((11_264, 11_264), Image.Resampling.NEAREST).save(path, compress_level=1)
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("(5632, 5632, 3)"), done.stderr
    assert int(done.stdout.split()[-1]) < 1_000_000  # kB


def test_a_strip_is_refused():
    with pytest.raises(ValueError, match="strip has 4000 × 20 pixels: too small or too narrow for a face"):
        read_image(png_that_claims(4000, 20), "strip")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF"])
def test_a_truncated_image_is_named(tmp_path, kind):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    content = io.BytesIO()
    Image.fromarray(noise).save(content, kind)
    (tmp_path / "cut.bin").write_bytes(content.getvalue()[: len(content.getvalue()) // 2])
    with pytest.raises(ValueError, match=r"cut\.bin is (damaged or cut off|no image)"):
        read_image(tmp_path / "cut.bin")


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "is empty"), (b"no image at all", "is no image"), (None, "is not there")]
)
def test_what_is_no_image_is_named(tmp_path, content, message):
    path = tmp_path / "what\nnow.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"what\\nnow\.jpg {message}"):
        read_image(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match="not a file"):
        read_image(tmp_path / "pipe.png")


def test_printable_text_is_one_line_of_utf8():
    shown = printable("Zoë\n李\udce9")
    assert shown == "Zoë\\n李\\udce9"
    Path(shown).name.encode("utf-8")


@pytest.mark.parametrize("bad", [*map(torch.ones, ((0, 8, 8, 3), (8, 8, 3), (1, 8, 8, 2))), torch.ones(4 * [3]).int()])
def test_what_is_no_batch_of_images_is_refused(bad):
    with pytest.raises(ValueError, match=rf"at least one image, found .* of {bad.dtype}"):
        image_batch(bad)


def test_nan_in_a_batch_is_refused():
    images = torch.zeros(2, 8, 8, 3)
    images[1, 3, 3, 0] = torch.nan
    with pytest.raises(ValueError, match="image 2 of 2 holds NaN"):
        image_batch(images)
    with pytest.raises(ValueError, match=r"photo holds NaN"):
        rgb_array(images[1], "photo")


def test_a_huge_image_of_a_batch_is_made_smaller_once():
    stripes = torch.eye(2).repeat(LONGEST_SIDE, 500)[None, ..., None].expand(-1, -1, -1, 3)
    (reduced,) = image_list([stripes])
    assert torch.allclose(reduced, torch.full((LONGEST_SIDE, 500, 3), 128 / 255)), "every pixel counts"
    assert image_list(reduced[None])[0].data_ptr() == reduced.data_ptr()


def test_every_form_of_an_image_is_the_same_array(gradient, tmp_path):
    gradient.save(tmp_path / "a.png")
    pixels = np.asarray(gradient.convert("RGB"))
    floats = torch.from_numpy(pixels.copy()).float() / 255
    with_alpha = torch.cat([floats, torch.rand(*floats.shape[:2], 1)], dim=-1)
    for source in (gradient, pixels, floats, with_alpha, tmp_path / "a.png", str(tmp_path / "a.png")):
        assert (rgb_array(source, "photo") == pixels).all()
    assert (rgb_array(floats[..., :1], "photo") == pixels[..., :1]).all()


@pytest.mark.parametrize(
    "wrong", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3)), torch.zeros(8, 8, 2), torch.zeros(1, 8, 8, 3)]
)
def test_another_form_is_named(wrong):
    with pytest.raises(ValueError, match=r"photo is .*expected"):
        rgb_array(wrong, "photo")


def test_a_pil_image_is_turned_and_scaled_like_its_file(gradient, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    gradient.save(tmp_path / "a.png", exif=exif)
    Image.fromarray(np.linspace(0, 65535, 32 * 48).astype(np.uint16).reshape(32, 48)).save(tmp_path / "b.png")
    for name in ("a.png", "b.png"):
        with Image.open(tmp_path / name) as opened:
            assert (rgb_array(opened, "photo") == np.asarray(read_image(tmp_path / name))).all()


def test_a_pil_image_that_is_cut_off_is_named(gradient):
    content = io.BytesIO()
    gradient.resize((400, 400)).save(content, "JPEG")
    with (
        Image.open(io.BytesIO(content.getvalue()[:2000])) as opened,
        pytest.raises(ValueError, match="photo is damaged"),
    ):
        rgb_array(opened, "photo")


def test_a_disk_that_is_full_for_a_picture_names_it(gradient, tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match=r"No space left.*nothing is left of it.*a\.png"):
        write_image(tmp_path / "a.png", gradient)
    assert not list(tmp_path.iterdir())
