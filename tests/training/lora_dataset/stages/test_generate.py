"""The stage on the miniature's SDXL folder, with an identity encoder and a LoRA of random weights."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from difflora_core.encoders import FaceEncoder, NoFaceError
from difflora_core.lora.file_formats import save_lora
from difflora_core.lora.layout import LoRALayout
from miniature.base_model import config as base_config
from miniature.base_model.checkpoint import NAME, load_checkpoint
from miniature.base_model.diffusers_folder import export_diffusers
from miniature.base_model.model import Tokenizer, noise_scheduler
from miniature.comfyui.host import find_host
from miniature.encoders.photomaker import Texts, initial_encoder
from miniature.paths import WEIGHTS
from miniature.world.drawing import draw
from miniature.world.people import person, reference_scene
from training.base_model.batched_loras import stacked_loras
from training.base_model.sdxl import SDXLBase
from training.lora_dataset.config import DatasetConfig, FacesConfig, GenerateConfig
from training.lora_dataset.manifest import Manifest, Record
from training.lora_dataset.photomaker.identity_encoder import lora_names, read_photomaker, write_photomaker
from training.lora_dataset.photomaker.pipeline import PhotoMakerPipeline, Sampling
from training.lora_dataset.stage import run_stage
from training.lora_dataset.stages.generate import (
    GENERATE,
    PROMPTS,
    choose_references,
    crop_face,
    picture_seed,
    read_negative,
    read_prompts,
)

TOKENIZER = find_host() / "comfy" / "sd1_tokenizer"
WHO = 6000  # a validation person
PROMPT = "a portrait of a person, smiling, red shirt, white background"
OTHER_PROMPT = "a portrait of a person, blue shirt, pink background"
SAMPLING = Sampling(size=128, steps=4, guidance=2.0, style_strength=0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "base"
    return export_diffusers(WEIGHTS / "checkpoints" / NAME, folder, TOKENIZER)


@pytest.fixture(scope="module")
def lora() -> tuple[LoRALayout, Tensor]:
    layout = LoRALayout.from_unet_config(base_config.UNET, 2)
    return layout, 0.05 * torch.randn(layout.numel, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def file(base: Path, lora: tuple[LoRALayout, Tensor]) -> Path:
    path, encoder = base.parent / "random.bin", initial_encoder(WEIGHTS)
    with torch.no_grad():  # untrained it hardly changes the class word; a test has to see where the identity comes in
        encoder.fuse_module.mlp1.fc2.weight.mul_(20.0)
        encoder.fuse_module.layer_norm.weight.fill_(1.0)
    write_photomaker(path, encoder, lora_names(lora[1], lora[0]))
    return path


@pytest.fixture(scope="module")
def pipeline(base: Path, file: Path) -> PhotoMakerPipeline:
    return PhotoMakerPipeline.open(base, file)


@pytest.fixture(scope="module")
def faces() -> FaceEncoder:
    return FaceEncoder.open("miniature", WEIGHTS / "insightface")


@pytest.fixture
def config(tmp_path: Path, base: Path, file: Path) -> DatasetConfig:
    """A workspace in which collect has left one person with three pictures."""
    generate = GenerateConfig(
        file=file,
        pictures=3,
        prompts=PROMPTS / "miniature.txt",
        negative=PROMPTS / "empty.txt",
        size=128,
        steps=2,
        references=2,
        batch=2,
    )
    pack = FacesConfig(pack="miniature", root=WEIGHTS / "insightface")
    made = DatasetConfig(workspace=tmp_path, base=base, faces=pack, generate=generate)
    collect(made, [drawn(k) for k in range(3)])
    return made


def drawn(picture: int) -> np.ndarray:
    """A reference picture of the person: uint8 (128, 128, 3)."""
    return draw(person(WHO), reference_scene(np.random.default_rng(picture))).image


def collect(config: DatasetConfig, pictures: list[np.ndarray]) -> None:
    """Write what the stage collect leaves behind."""
    folder = config.stage("collect") / "ann"
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{number:03d}.png" for number in range(len(pictures))]
    for name, pixels in zip(names, pictures, strict=True):
        Image.fromarray(pixels).save(folder / name)
    np.save(folder / "face.npy", np.full(512, 512**-0.5, dtype=np.float32))
    Manifest(config.stage("collect")).write(Record("ann", facts={"pictures": names, "face": "face.npy"}))


def identities(count: int, seed: int = 0) -> Tensor:
    """Random identity embeddings (count, 96)."""
    return torch.randn(count, 96, generator=torch.Generator().manual_seed(seed))


def draw_one(pipeline: PhotoMakerPipeline, identity: Tensor, sampling: Sampling, seed: int = 7) -> np.ndarray:
    """One picture of PROMPT: int16, so that differences don't wrap round."""
    return np.asarray(pipeline.draw([PROMPT], "", "person", identity, [seed], sampling)[0]).astype(np.int16)


def generated(config: DatasetConfig) -> Record:
    """Run the stage and return the person's record."""
    run_stage(GENERATE, config)
    record = Manifest(config.stage("generate")).read("ann")
    assert record is not None
    return record


def test_stage_writes_pictures_and_record(config: DatasetConfig) -> None:
    record = generated(config)
    assert record.status == "done", record.reason
    assert [entry["file"] for entry in record.facts["pictures"]] == [f"generate/ann/00{k}.png" for k in range(3)]
    assert record.facts["pictures"][1]["caption"] == "a portrait of a person, smiling, red shirt, white background"
    assert len(record.facts["references"]) == 2
    for entry in record.facts["pictures"]:
        picture = Image.open(config.workspace / entry["file"])
        assert (picture.size, picture.mode) == ((128, 128), "RGB")


def test_leftovers_of_an_interrupted_run_are_replaced(config: DatasetConfig) -> None:
    folder = config.stage("generate") / "ann"
    folder.mkdir(parents=True)
    for name in ("000.png", "099.png", ".001.png.77.partial"):
        (folder / name).write_bytes(b"half a picture")
    generated(config)
    assert sorted(path.name for path in folder.iterdir()) == ["000.png", "001.png", "002.png"]
    assert Image.open(folder / "000.png").size == (128, 128)


def test_run_with_another_batch_size_makes_the_same_pictures(config: DatasetConfig) -> None:
    generated(config)
    folder = config.stage("generate") / "ann"
    first = [np.asarray(Image.open(path)).astype(np.int16) for path in sorted(folder.iterdir())]
    Manifest(config.stage("generate")).write(Record("ann", "failed"))
    generated(replace(config, generate=replace(config.generate, batch=3)))
    for before, path in zip(first, sorted(folder.iterdir()), strict=True):
        # Other matrix shapes sum in another order: at most the last grey level differs
        assert np.abs(before - np.asarray(Image.open(path))).max() <= 2


def test_disabled_passes_collected_pictures_on(config: DatasetConfig) -> None:
    (config.stage("collect") / "ann" / "001.txt").write_text("a portrait of a person,\nred shirt\n", encoding="utf-8")
    off = replace(config.generate, enabled=False, file=Path("nowhere.bin"))
    record = generated(replace(config, generate=off, base=Path("nowhere")))
    captions = ["a portrait of a person", "a portrait of a person, red shirt", "a portrait of a person"]
    expected = [{"file": f"collect/ann/00{k}.png", "caption": caption} for k, caption in enumerate(captions)]
    assert list(record.facts["pictures"]) == expected


def test_person_without_a_face_fails_and_says_why(config: DatasetConfig) -> None:
    collect(config, [np.full((128, 128, 3), 200, dtype=np.uint8)])
    record = generated(config)
    assert record.status == "failed"
    assert "none of the 1 collected pictures shows a face" in record.reason


def test_prompt_without_the_class_word_stops_the_stage(config: DatasetConfig, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a {person}\na castle on a hill\n", encoding="utf-8")
    spoilt = replace(config, generate=replace(config.generate, prompts=tmp_path / "prompts.txt"))
    with pytest.raises(ValueError, match=r"prompts.txt.*'a castle on a hill'"):
        run_stage(GENERATE, spoilt)


def test_placement_beyond_the_tokens_stops_the_stage(config: DatasetConfig, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("very " * 74 + "old {person}\n", encoding="utf-8")
    spoilt = replace(config, generate=replace(config.generate, prompts=tmp_path / "prompts.txt"))
    with pytest.raises(ValueError, match="behind token 77 of the prompt 'very very"):
        run_stage(GENERATE, spoilt)


def test_seeds_decide_and_the_batch_does_not(pipeline: PhotoMakerPipeline) -> None:
    both = pipeline.draw([OTHER_PROMPT, PROMPT], "", "person", identities(2), [1, 7], SAMPLING)
    alone = draw_one(pipeline, identities(2), SAMPLING)
    assert np.abs(np.asarray(both[1]) - alone).max() <= 2
    assert np.abs(draw_one(pipeline, identities(2), SAMPLING, seed=8) - alone).max() > 50


def test_identity_changes_the_picture(pipeline: PhotoMakerPipeline) -> None:
    first, second = (draw_one(pipeline, identities(2, seed), SAMPLING) for seed in (0, 1))
    assert np.abs(first - second).max() > 20


def test_full_style_strength_leaves_the_identity_out(pipeline: PhotoMakerPipeline) -> None:
    late = replace(SAMPLING, style_strength=100)
    first, second = (draw_one(pipeline, identities(2, seed), late) for seed in (0, 1))
    assert np.array_equal(first, second)


@pytest.mark.parametrize(("style_strength", "guidance"), [(0, 2.0), (50, 2.0), (99, 2.0), (50, 1.0), (0, 1.0)])
def test_pipeline_agrees_with_a_plain_loop(
    pipeline: PhotoMakerPipeline, lora: tuple[LoRALayout, Tensor], style_strength: int, guidance: float
) -> None:
    sampling, identity = replace(SAMPLING, style_strength=style_strength, guidance=guidance), identities(3)
    drawn = draw_one(pipeline, identity, sampling)
    assert np.abs(drawn - plain_loop(pipeline, lora, identity, sampling)).max() <= 2


@torch.no_grad()
def plain_loop(
    pipeline: PhotoMakerPipeline, lora: tuple[LoRALayout, Tensor], identity: Tensor, sampling: Sampling
) -> np.ndarray:
    """What the pipeline should draw, from the single-file checkpoint: its own U-Net, LoRA as branches, DDIM by hand."""
    from diffusers import DDIMScheduler

    model, vae = load_checkpoint(WEIGHTS)
    texts = Texts(model, TOKENIZER)
    plain, _ = texts([PROMPT], 1)
    fused, positions = texts([PROMPT], len(identity))
    fused.context = pipeline.encoder.fuse(fused.context, positions, identity[None])
    empty = model.encode(Tokenizer(TOKENIZER)([""]))
    scheduler = DDIMScheduler.from_config(noise_scheduler().config)
    scheduler.set_timesteps(sampling.steps)
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(7))
    with stacked_loras(model.unet, lora[0], lora[1][None]):
        for step, timestep in enumerate(scheduler.timesteps):
            text = plain if step < sampling.steps * sampling.style_strength // 100 else fused
            without = model.predict(latents, timestep[None], empty)
            v = without + sampling.guidance * (model.predict(latents, timestep[None], text) - without)
            latents = scheduler.step(v, timestep, latents).prev_sample
    picture = vae.decode(latents).clamp(0, 1)[0].permute(1, 2, 0)
    return picture.mul(255).round().numpy().astype(np.int16)


def test_pooled_text_changes_when_the_identity_comes_in(pipeline: PhotoMakerPipeline) -> None:
    seen = []

    def note(_: Any, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        seen.append(keywords["added_cond_kwargs"]["text_embeds"])

    handle = pipeline.pipe.unet.register_forward_pre_hook(note, with_kwargs=True)
    try:
        draw_one(pipeline, identities(3), replace(SAMPLING, style_strength=50))
    finally:
        handle.remove()
    model, _ = load_checkpoint(WEIGHTS)
    texts = Texts(model, TOKENIZER)
    without = model.encode(Tokenizer(TOKENIZER)([""])).pooled
    for pooled, times in zip(seen, (1, 1, 3, 3), strict=True):
        torch.testing.assert_close(pooled, torch.cat([without, texts([PROMPT], times)[0].pooled]))


def test_half_precision_makes_nearly_the_same_picture(pipeline: PhotoMakerPipeline, base: Path, file: Path) -> None:
    half = PhotoMakerPipeline(SDXLBase.open(base, "cpu", torch.bfloat16), read_photomaker(file))
    difference = draw_one(half, identities(2), SAMPLING) - draw_one(pipeline, identities(2), SAMPLING)
    assert np.abs(difference).mean() < 8


def test_lcm_lora_is_applied(base: Path, file: Path, tmp_path: Path) -> None:
    layout = LoRALayout.from_unet_config(base_config.UNET, 4)
    for name, strength in (("zero", 0.0), ("strong", 0.3)):
        flat = strength * torch.randn(layout.numel, generator=torch.Generator().manual_seed(2))
        save_lora(tmp_path / f"{name}.safetensors", flat, layout, format="peft")
    pictures = []
    for name in ("zero", "strong"):
        made = PhotoMakerPipeline.open(base, file, lcm_lora=tmp_path / f"{name}.safetensors")
        assert type(made.pipe.scheduler).__name__ == "LCMScheduler"
        pictures.append(draw_one(made, identities(2), replace(SAMPLING, guidance=1.0)))
    assert np.abs(pictures[0] - pictures[1]).max() > 20


def test_lcm_lora_that_is_no_safetensors_file_is_refused(base: Path, file: Path, tmp_path: Path) -> None:
    (tmp_path / "lcm.bin").write_bytes(b"x")
    with pytest.raises(FileNotFoundError, match=r"no LCM-LoRA .*lcm.bin; expected a safetensors file"):
        PhotoMakerPipeline.open(base, file, lcm_lora=tmp_path / "lcm.bin")


def test_broken_weights_are_an_error_not_a_black_picture(base: Path, file: Path) -> None:
    sdxl = SDXLBase.open(base)
    sdxl.unet.conv_out.bias.data.fill_(float("nan"))
    with pytest.raises(RuntimeError, match="is not finite"):
        draw_one(PhotoMakerPipeline(sdxl, read_photomaker(file)), identities(1), SAMPLING)


def test_encoder_for_other_texts_is_refused(base: Path, file: Path) -> None:
    sdxl = SDXLBase.open(base)
    pipe = sdxl.pipeline
    pipe.text_encoder, pipe.text_encoder_2 = pipe.text_encoder_2, pipe.text_encoder
    with pytest.raises(ValueError, match=r"made for text encoders \(32, 64\) wide, the base model's are \(64, 32\)"):
        PhotoMakerPipeline(sdxl, read_photomaker(file))


@pytest.mark.parametrize("values", [{"style_strength": 101}, {"style_strength": -1}, {"size": 100}, {"steps": 0}])
def test_sampling_out_of_range_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="found"):
        Sampling(**values)


def test_references_are_the_pictures_nearest_to_the_person(faces: FaceEncoder, tmp_path: Path) -> None:
    stranger = draw(person(WHO + 1), reference_scene(np.random.default_rng(0))).image
    blank = np.zeros((128, 128, 3), dtype=np.uint8)
    paths = []
    for number, pixels in enumerate((blank, stranger, drawn(0), drawn(1))):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(pixels).save(paths[-1])
    mean = faces.encode([drawn(2), drawn(3)]).mean(0)
    chosen = choose_references(paths, faces, mean, 2)
    assert sorted(path.name for path, _ in chosen) == ["2.png", "3.png"]


def test_no_face_at_all_is_an_error(faces: FaceEncoder, tmp_path: Path) -> None:
    Image.new("RGB", (128, 128)).save(tmp_path / "a.png")
    with pytest.raises(NoFaceError, match="none of the 1 collected pictures"):
        choose_references([tmp_path / "a.png"], faces, torch.ones(512), 2)


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        ((40, 30, 60, 50), (21, 59), (31, 69)),  # 38 pixels around (50, 40)
        ((0, 0, 20, 20), (0, 38), (0, 38)),  # moved into the picture
        ((10, 0, 90, 80), (0, 80), (10, 90)),  # no larger than the picture
    ],
)
def test_crop_is_a_square_around_the_face(
    box: tuple[float, ...], rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    y, x = torch.meshgrid(torch.arange(80.0), torch.arange(100.0), indexing="ij")
    crop = crop_face(torch.stack([y, x, x]), box)
    assert (crop[0, 0, 0], crop[0, -1, -1] + 1) == rows
    assert (crop[1, 0, 0], crop[1, -1, -1] + 1) == columns


def test_own_prompts_fit_sdxl_with_many_references(pipeline: PhotoMakerPipeline) -> None:
    prompts = read_prompts(GenerateConfig(), "woman")
    assert len(set(prompts)) == len(prompts) >= 40
    ids, _ = pipeline.tokens(prompts, "woman", 8)
    assert max(map(len, ids)) < 77  # 77 would mean that something was cut off
    assert len(pipeline.pipe.tokenizer(read_negative(GenerateConfig())).input_ids) <= 77


def test_miniature_prompts_use_known_words_only(pipeline: PhotoMakerPipeline) -> None:
    prompts = read_prompts(GenerateConfig(prompts=PROMPTS / "miniature.txt"), "person")
    ids = sorted({token for row in pipeline.tokens(prompts, "person", 1)[0] for token in row})
    table = pipeline.pipe.text_encoder.get_input_embeddings().weight
    assert (table[ids].norm(dim=1) > 0).all()
    assert read_negative(GenerateConfig(negative=PROMPTS / "empty.txt")) == ""


def test_seeds_differ_by_picture_and_setting() -> None:
    seeds = {picture_seed(seed, number) for seed in range(4) for number in range(50)}
    assert len(seeds) == 200
    assert picture_seed(0, 3) == picture_seed(0, 3) < 2**63
