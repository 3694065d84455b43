"""Preprocess and DreamBooth on the miniature: cached once, trained together as alone, whatever the options."""

import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from difflora_core.files import read_tensors, write_tensors
from miniature.base_model.diffusers_folder import export_diffusers
from miniature.comfyui.host import find_host
from miniature.paths import WEIGHTS
from miniature.personal.held_out import HeldOut
from miniature.personal.photographs import SCENES
from miniature.world.drawing import draw
from miniature.world.people import caption, person, random_scene
from training.base_model.diffusion_loss import DenoisingLoss, PersonImages, picture_order
from training.base_model.sdxl import SDXLBase
from training.dreambooth.train import shared_start
from training.lora_dataset.config import DatasetConfig, PreprocessConfig, TeacherConfig
from training.lora_dataset.manifest import Manifest, Record
from training.lora_dataset.stage import run_stage, waiting
from training.lora_dataset.stages.preprocess import PREPROCESS, read_prepared, read_texts, square
from training.lora_dataset.stages.train_loras import DREAMBOOTH, groups, prior_pictures, readable, teach
from training.lora_dataset.stages.verify import denoising_loss

PEOPLE = ("anna", "bert")
TEACHER = TeacherConfig(
    feed_forward=True, people=2, steps=3, rows=2, learning_rate=1e-2, dtype="fp32", gradient_checkpointing=False
)

PREPARED = PreprocessConfig(size=128, held_out=0)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> DatasetConfig:
    """Two people with four pictures; bert lost his second to the filter. Preprocessed."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("teachers")
    base = export_diffusers(
        WEIGHTS / "checkpoints" / "miniature_sdxl.safetensors",
        folder / "base",
        find_host() / "comfy" / "sd1_tokenizer",
    )
    config = DatasetConfig(folder / "work", base, preprocess=PREPARED, dreambooth=TEACHER)
    for number, name in enumerate(PEOPLE):
        pictures = []
        for place, scene in enumerate(SCENES[:4]):
            file = f"generate/{name}/{place:03d}.png"
            path = config.workspace / file
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw(person(30 + number), scene).image).save(path)
            pictures.append({"file": file, "caption": caption(scene)})
        Manifest(config.stage("generate")).write(Record(name, facts={"pictures": pictures}))
        kept = [pictures[i] for i in ((0, 2, 3) if name == "bert" else (3, 1, 0, 2))]
        Manifest(config.stage("filter")).write(Record(name, facts={"kept": kept}))
    run_stage(PREPROCESS, config)
    return config


@pytest.fixture(scope="module")
def base(config: DatasetConfig) -> SDXLBase:
    return SDXLBase.open(config.base)


def taught(
    config: DatasetConfig, base: SDXLBase, people: Sequence[str], prior: tuple[torch.Tensor, str] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """LoRAs and losses of people, trained together."""
    layout = base.layout(4, True)
    albums, left_out = readable(config, people)
    assert not left_out
    return teach(config, base, layout, shared_start(layout), albums, prior)


def test_pictures_keep_their_places(config: DatasetConfig) -> None:
    anna, bert = (read_prepared(config, name) for name in PEOPLE)
    assert anna.places == [0, 1, 2, 3]
    assert bert.places == [0, 2, 3]
    assert bert.of == 4
    assert anna.captions == [caption(scene) for scene in SCENES[:4]]


def test_a_prompt_is_encoded_once_for_all(config: DatasetConfig, base: SDXLBase) -> None:
    captions = {caption(scene) for scene in SCENES[:4]}
    assert len(list((config.stage("preprocess") / "text").iterdir())) == len(captions)
    context, pooled = read_texts(config, sorted(captions)[:1])
    wanted = base.encode_text(sorted(captions)[:1])
    torch.testing.assert_close(context, wanted[0])
    torch.testing.assert_close(pooled, wanted[1])


def test_latents_are_the_autoencoders(config: DatasetConfig, base: SDXLBase) -> None:
    pixels = torch.from_numpy(draw(person(30), SCENES[0]).image.copy()).permute(2, 0, 1)[None].float() / 255.0
    torch.testing.assert_close(
        read_prepared(config, "anna").latents[:1], base.encode_pictures(pixels), rtol=2e-3, atol=2e-3
    )


def test_another_size_asks_for_a_new_run(config: DatasetConfig) -> None:
    with pytest.raises(ValueError, match="latents of 128 pixels, the configuration says 256"):
        read_prepared(replace(config, preprocess=PreprocessConfig(size=256)), "anna")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"shared_noise": False},
        {"min_snr_gamma": 5.0},
        {"prior_weight": 0.5},
        {"gradient_checkpointing": True},
    ],
    ids=lambda options: next(iter(options), "plain"),
)
def test_together_as_alone(config: DatasetConfig, base: SDXLBase, options: dict[str, object]) -> None:
    """The issue's property, on the real network: nobody's LoRA depends on who else is in the batch."""
    config = replace(config, dreambooth=replace(TEACHER, **options))
    start = shared_start(base.layout(4, True))
    prior = None
    if config.dreambooth.prior_weight:
        latents, words = prior_pictures(replace(config, preprocess=PREPARED), base)
        prior = (latents, words)
    together, losses = taught(config, base, PEOPLE, prior)
    assert not torch.allclose(together[0], together[1], rtol=1e-2)
    for row, name in enumerate(PEOPLE):
        alone, loss = taught(config, base, [name], prior)
        change = (alone[0] - start).norm()
        assert (together[row] - alone[0]).norm() < 1e-2 * change
        torch.testing.assert_close(losses[row], loss[0], rtol=1e-3, atol=1e-5)


def test_options_change_what_is_learned(config: DatasetConfig, base: SDXLBase) -> None:
    plain = taught(config, base, ["anna"])[0]
    for options in ({"shared_noise": False}, {"min_snr_gamma": 1.0}, {"seed": 1}):
        other = taught(replace(config, dreambooth=replace(TEACHER, **options)), base, ["anna"])[0]
        assert not torch.allclose(other, plain, rtol=1e-2), options


def test_what_is_held_out_is_not_learnt_from(config: DatasetConfig, base: SDXLBase) -> None:
    """Whatever the held-out picture shows, the LoRA is the same; and somebody's last picture is not trained on."""
    prepared = read_prepared(config, "anna")
    train, kept = prepared.split(1)
    assert (train.places, kept.places) == ([0, 1, 2], [3])
    assert torch.equal(torch.cat([train.latents, kept.latents]), prepared.latents)
    with pytest.raises(ValueError, match="none is left"):
        prepared.split(4)
    config = replace(config, preprocess=replace(PREPARED, held_out=1))
    before = taught(config, base, ["anna"])[0]
    path = config.stage("preprocess") / "anna.safetensors"
    tensors, about = read_tensors(path)
    try:
        write_tensors(path, {"latents": torch.cat([tensors["latents"][:-1], 0 * tensors["latents"][-1:]])}, about)
        assert torch.equal(taught(config, base, ["anna"])[0], before)
    finally:
        write_tensors(path, tensors, about)


def test_a_missing_picture_leaves_the_others_in_their_steps() -> None:
    order = picture_order(4, step=0, rows=4)
    album = PersonImages("bert", torch.zeros(3, 1), torch.zeros(3), torch.tensor([0, 2, 3]), 4)
    stand_in = {0: 0, 1: 2, 2: 2, 3: 3}
    assert album.places[album.nearest(order)].tolist() == [stand_in[place] for place in order.tolist()]


def test_prior_without_pictures_is_refused(base: SDXLBase) -> None:
    from training.base_model.diffusion_loss import Objective

    with pytest.raises(ValueError, match="needs class pictures"):
        DenoisingLoss(lambda *_: torch.zeros(1), base.scheduler(), [], 1, 0, Objective(prior_weight=1.0))


def test_a_bad_file_does_not_cost_the_group(config: DatasetConfig, tmp_path: Path) -> None:
    """The other person is trained, the record tells why one is missing, and a second run has nothing to do."""
    shutil.copytree(config.workspace / "preprocess", tmp_path / "preprocess")
    (tmp_path / "preprocess" / "anna.safetensors").write_bytes(b"torn")
    config = replace(config, workspace=tmp_path)
    run_stage(DREAMBOOTH, config)
    record = Manifest(config.stage("dreambooth")).read("anna")
    assert record is not None
    assert record.facts["people"] == ["bert"]
    assert "without anna: ValueError" in record.reason
    assert waiting(DREAMBOOTH, config) == []


def test_a_teacher_lowers_the_loss_on_its_person_and_a_scrambled_one_does_not(base: SDXLBase) -> None:
    """A shipped teacher of a held-out person, through a PEFT file and diffusers' loader; scenes new to it."""
    held_out = HeldOut.load()
    who, layout = held_out.people[0], base.layout(4, True)
    scenes = [random_scene(np.random.default_rng([5, number])) for number in range(8)]
    pixels = np.stack([draw(person(who), scene).image for scene in scenes])
    latents = base.encode_pictures(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255.0)
    texts = base.encode_text([caption(scene) for scene in scenes])

    def loss(lora: torch.Tensor | None) -> float:
        with nullcontext() if lora is None else base.lora(lora, layout):
            return denoising_loss(base, latents, *texts, size=128)

    teacher = held_out.teachers[0].float()
    scrambled = teacher[torch.randperm(layout.numel, generator=torch.Generator().manual_seed(0))]
    assert loss(teacher) < 0.9 * loss(None) < loss(scrambled)


def test_new_people_make_new_groups(config: DatasetConfig, tmp_path: Path) -> None:
    config = replace(config, workspace=tmp_path)
    prepared, trained = Manifest(config.stage("preprocess")), Manifest(config.stage("dreambooth"))
    for name in ("b", "d", "e"):
        prepared.write(Record(name))
    assert groups(config) == {"b": ["b", "d"], "e": ["e"]}
    trained.write(Record("b", facts={"people": ["b", "d"]}))
    trained.write(Record("e", facts={"people": ["e"]}))
    for name in ("a", "c"):
        prepared.write(Record(name))
    assert groups(config) == {"b": ["b", "d"], "e": ["e"], "a": ["a", "c"]}


def test_square_around_a_face_stays_inside() -> None:
    image = Image.fromarray(np.arange(100 * 160, dtype=np.uint32).astype(np.uint8).reshape(100, 160)).convert("RGB")
    assert square(image, 64).shape == (64, 64, 3)
    whole = np.asarray(image)
    corner = square(image, 40, (120, 0, 160, 40), 0.0)
    assert np.array_equal(corner, whole[:40, 120:])
    assert np.array_equal(square(image, 100), whole[:, 30:130])


def test_full_precision_is_read_where_both_are_there(config: DatasetConfig, base: SDXLBase, tmp_path: Path) -> None:
    """As in the published folder, whose U-Net alone may have a second, rounded file."""
    shutil.copytree(config.base, tmp_path / "base")
    weights = next((tmp_path / "base" / "unet").glob("*.safetensors"))
    tensors, about = read_tensors(weights)
    rounded = {name: tensor.half() for name, tensor in tensors.items()}
    write_tensors(weights.with_name(weights.name.replace(".safetensors", ".fp16.safetensors")), rounded, about)
    again = SDXLBase.open(tmp_path / "base")
    for name, tensor in base.unet.state_dict().items():
        assert torch.equal(again.unet.state_dict()[name], tensor), name


def test_bfloat16_with_a_lora_draws(config: DatasetConfig) -> None:
    half = SDXLBase.open(config.base, dtype=torch.bfloat16)
    held_out = HeldOut.load()
    words = ["a portrait of a person, smiling"]

    def picture(lora: torch.Tensor | None) -> torch.Tensor:
        with nullcontext() if lora is None else half.lora(lora, half.layout(4, True)):
            return half.generate(words, 128, 4, 3.0, seed=1)

    plain, own = picture(None), picture(held_out.teachers[0].float())
    assert own.isfinite().all()
    assert (own - plain).abs().mean() > 0.01
    assert torch.equal(picture(None), plain), "the LoRA stayed behind"


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [("StableDiffusionPipeline", "is no SDXL: model_index.json names StableDiffusionPipeline"), (None, "no pipeline")],
)
def test_another_base_model_is_refused(tmp_path: Path, pipeline: str | None, message: str) -> None:
    import json

    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": pipeline} if pipeline else {}))
    with pytest.raises(ValueError, match=message):
        SDXLBase.open(tmp_path)
