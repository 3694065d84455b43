"""The face encoder on real models: the miniature's face pack in the real InsightFace."""

import re
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from difflora_core.config import EncoderNames
from difflora_core.encoders.face_encoder import FaceEncoder, NoFaceError, providers_for
from difflora_core.encoders.loaded import LoadedEncoders
from difflora_core.images import rgb_array
from difflora_core.references import MISPLACED
from miniature.paths import WEIGHTS
from miniature.world.drawing import draw, draw_empty
from miniature.world.people import person
from miniature.world.scenes import reference_scene


@pytest.fixture(scope="module")
def encoder() -> FaceEncoder:
    torch.set_num_threads(1)
    return FaceEncoder.open("miniature", WEIGHTS / "insightface")


@pytest.fixture(scope="module")
def group() -> np.ndarray:
    """Person 6001 on the left and small, 6002 on the right and large: uint8 (170, 300, 3)."""
    rng = np.random.default_rng(1)
    image = Image.new("RGB", (300, 170), (200, 205, 210))
    image.paste(Image.fromarray(draw(person(6001), reference_scene(rng), size=112).image), (5, 30))
    image.paste(Image.fromarray(draw(person(6002), reference_scene(rng), size=160).image), (130, 5))
    return np.asarray(image)


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


def test_every_way_of_choosing(encoder, group):
    largest, left, second_left, surest = (
        encoder.find(group, choose=choose, index=index)
        for choose, index in (("largest", 0), ("left to right", 0), ("left to right", 1), ("highest score", 0))
    )
    assert len(largest.boxes) == 2
    assert largest.boxes[largest.chosen, 0] > 120 > left.boxes[left.chosen, 0]
    assert torch.equal(second_left.embedding, largest.embedding)
    assert surest.chosen == int(surest.boxes[:, 4].argmax())
    assert (left.chosen, second_left.chosen) == (0, 1), "boxes are in the chosen order"


def test_a_missing_number_says_which_faces_there_are(encoder, group):
    with pytest.raises(NoFaceError) as error:
        encoder.find(group, "group.png", "left to right", 2)
    found = re.findall(r"(\d) at x (\d+), y \d+ \(\d+ pixels wide\)", str(error.value))
    assert [int(number) for number, _ in found] == [0, 1]
    assert int(found[0][1]) < 120 < int(found[1][1])
    assert "In the order 'left to right'" in str(error.value)


@pytest.mark.parametrize(("choose", "index"), [("smallest", 0), ("largest", -1)])
def test_what_is_no_way_of_choosing_is_refused(encoder, group, choose, index):
    with pytest.raises(ValueError, match=f"from 0 on; found number {index}, '{choose}'"):
        encoder.find(group, choose=choose, index=index)


def test_an_aligned_crop_is_taken_as_it_is(encoder, group):
    found = encoder.find(group)
    again = encoder.find(rgb_array(found.crop, "crop"), aligned=True)
    assert cosine(again.embedding, found.embedding) > 0.999
    assert torch.equal(again.crop, found.crop)
    larger = torch.nn.functional.interpolate(found.crop.permute(2, 0, 1)[None], scale_factor=4, mode="bilinear")
    larger = rgb_array(larger[0].permute(1, 2, 0), "crop")
    assert cosine(encoder.find(larger, aligned=True).embedding, found.embedding) > 0.98


def test_a_photograph_is_no_aligned_face(encoder):
    for who in range(6001, 6011):
        image = draw(person(who), reference_scene(np.random.default_rng(3))).image
        crop = rgb_array(encoder.find(image).crop, "crop")
        assert encoder.find(crop, aligned=True).misplacement < MISPLACED
        assert encoder.find(image, aligned=True).misplacement > MISPLACED
    assert encoder.find(image).misplacement == 0.0
    nobody = draw_empty(reference_scene(np.random.default_rng(2)))
    assert encoder.find(nobody, aligned=True).misplacement == 0.0, "a face that is not detected may be aligned"


def test_a_white_image_names_what_makes_such_ones(encoder, group):
    """ComfyUI's Load Image clips gray images of 16 bits."""
    with pytest.raises(
        NoFaceError, match=r"Found no face in .* Of its pixels 100% are white, .* 16 bits: save it with 8"
    ):
        encoder.find(np.full((64, 64, 3), 255, np.uint8))
    for image in (np.zeros((64, 64, 3), np.uint8), group):
        with pytest.raises(NoFaceError) as error:
            encoder.find(image, index=2)
        assert "white" not in str(error.value)


def test_an_image_without_the_chosen_face_is_named(encoder, group):
    nobody = draw_empty(reference_scene(np.random.default_rng(2)))
    someone = draw(person(6001), reference_scene(np.random.default_rng(3))).image
    with pytest.raises(NoFaceError, match="no face in image 2 of 2"):
        encoder.encode([someone, nobody])
    with pytest.raises(NoFaceError, match=r"2 faces, no number 5 in group\.png"):
        encoder.find(group, "group.png", index=5)
    tiny = np.zeros((1, 1, 3), np.uint8)
    with pytest.raises(NoFaceError, match="1 × 1 pixels"):
        encoder.find(tiny)
    with pytest.raises(NoFaceError, match="1 × 1 pixels: an aligned face needs at least 32"):
        encoder.find(tiny, aligned=True)
    with pytest.raises(NoFaceError, match=r"240 × 112 pixels: an aligned face is square\. Switch `aligned` off"):
        encoder.find(np.zeros((112, 240, 3), np.uint8), aligned=True)


def test_faces_are_found_on_the_cpu_where_there_is_no_gpu_runtime(monkeypatch):
    runtime = SimpleNamespace(get_available_providers=lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    assert providers_for(torch.device("cpu")) == ["CPUExecutionProvider"]
    assert providers_for(torch.device("cuda")) == ["CUDAExecutionProvider", "CPUExecutionProvider"]
    second = ("CUDAExecutionProvider", {"device_id": 1})
    assert providers_for(torch.device("cuda:1")) == [second, "CPUExecutionProvider"]
    runtime.get_available_providers = lambda: ["CPUExecutionProvider"]
    assert providers_for(torch.device("cuda")) == ["CPUExecutionProvider"]


def test_each_gpu_has_a_face_encoder_of_its_own(monkeypatch):
    runtime = SimpleNamespace(get_available_providers=lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    monkeypatch.setattr(FaceEncoder, "open", lambda _, __, providers: providers)
    encoders = LoadedEncoders(EncoderNames(face="pack", image="vision"))
    first, again, second = (encoders.face(torch.device(name)) for name in ("cuda", "cuda:0", "cuda:1"))
    assert first is again
    assert second == providers_for(torch.device("cuda:1"))


def test_no_provider_is_replaced_by_the_cpus(monkeypatch):
    """InsightFace does so in `prepare` for a device number below 0."""
    devices = []

    class Analysis:
        def __init__(self, **_: object) -> None:
            self.models, self.det_model = {"recognition": object()}, object()

        def prepare(self, ctx_id: int) -> None:
            devices.append(ctx_id)

    monkeypatch.setattr("insightface.app.FaceAnalysis", Analysis)
    for provider in ("CUDA", "Dml", "CoreML", "CPU"):
        FaceEncoder.open("miniature", WEIGHTS / "insightface", [f"{provider}ExecutionProvider"])
    assert all(device >= 0 for device in devices)
    assert len(devices) == 4


def test_most_faces_upside_down_are_turned_back_and_no_upright_one(encoder):
    """The miniature's detector is sure of some drawn faces that are upside down."""
    images = [draw(person(who), reference_scene(np.random.default_rng(3))).image for who in range(6001, 6021)]
    assert not any(encoder.find(image).quarter_turns for image in images)
    assert [encoder.find(np.rot90(image, 2)).quarter_turns for image in images].count(2) > 10


@pytest.mark.parametrize("turns", [1, 3])
@pytest.mark.parametrize("who", [6001, 6002, 6003])
def test_a_turned_face_is_turned_back(encoder, who, turns):
    image = draw(person(who), reference_scene(np.random.default_rng(3))).image
    image = np.concatenate([np.full((image.shape[0], 20, 3), 200, np.uint8), image], axis=1)  # not square
    upright, turned = encoder.find(image), encoder.find(np.rot90(image, turns))
    assert upright.quarter_turns == 0
    assert turned.quarter_turns == 4 - turns
    assert cosine(upright.embedding, turned.embedding) > 0.99
    # Boxes and landmarks are in pixels of the image that was given
    height, width = image.shape[:2]
    x, y = upright.landmarks.T
    expected = {1: (y, width - x), 3: (height - y, x)}[turns]
    torch.testing.assert_close(turned.landmarks, torch.stack(expected, dim=-1), rtol=0, atol=1.0)
    left, top, right, bottom = turned.boxes[turned.chosen, :4]
    assert ((turned.landmarks > torch.stack([left, top])) & (turned.landmarks < torch.stack([right, bottom]))).all()


DETECTOR, RECOGNIZER = "detector.onnx", "recognizer.onnx"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda pack: (pack / DETECTOR).unlink(), "miniature has no detector, only "),
        (
            lambda pack: (pack / DETECTOR).write_bytes(b"version https://git-lfs.github.com/spec/v1\n"),
            "Git LFS pointer",
        ),
        (lambda pack: (pack / RECOGNIZER).write_bytes(b"<!DOCTYPE html>"), "it is an HTML page"),
        (lambda pack: (pack / RECOGNIZER).write_bytes(b""), "it is empty"),
        (
            lambda pack: (pack / RECOGNIZER).write_bytes((pack / RECOGNIZER).read_bytes()[:5000]),
            "is no ONNX model: 5000",
        ),
    ],
    ids=["no detector", "lfs", "html", "empty", "cut off"],
)
def test_a_damaged_pack_is_named(tmp_path, damage, message):
    pack = tmp_path / "models" / "miniature"
    shutil.copytree(WEIGHTS / "insightface" / "models" / "miniature", pack)
    damage(pack)
    with pytest.raises(ValueError, match=message):
        FaceEncoder.open("miniature", tmp_path)
