"""The checkpoint: everything in one file, and nothing that isn't one."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

import difflora_core
from difflora_core.autoencoder.model import LAEConfig
from difflora_core.denoiser.diffusion import SamplingConfig
from difflora_core.denoiser.dit import DiTConfig
from difflora_core.denoiser.mif import MIFConfig
from difflora_core.files import read_tensors, write_tensors
from difflora_core.lora.file_formats import read_lora, save_lora
from difflora_core.model import HEADER, DiffLoRA, DiffLoRAConfig, EncoderNames, LoRA

CONFIG = DiffLoRAConfig(
    LAEConfig(tokens=3, width=2, chunk=8, channels=6, hidden=8),
    DiTConfig(tokens=3, latent_width=2, width=16, layers=1, heads=2, head_width=8, condition_width=10),
    MIFConfig(face_width=6, image_width=5, width=10),
    EncoderNames("a", "b"),
    SamplingConfig(steps=3, samples=2, latent_scale=1.25),
    {"people": 40},
)


@pytest.fixture
def model(layout, loras) -> DiffLoRA:
    torch.manual_seed(0)
    model = DiffLoRA(layout, CONFIG)
    model.lae.fit(loras)
    torch.nn.init.normal_(model.dit.out.weight)
    return model.eval().requires_grad_(False)


def test_file_round_trip(tmp_path, model):
    model.save(tmp_path / "m.safetensors", dtype=torch.float32)
    loaded = DiffLoRA.load(tmp_path / "m.safetensors")
    assert loaded.config == model.config
    assert loaded.layout == model.layout
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_half_precision_keeps_the_statistics_exact(tmp_path, model):
    model.save(tmp_path / "m.safetensors")
    loaded = DiffLoRA.load(tmp_path / "m.safetensors")
    assert torch.equal(loaded.lae.mean, model.lae.mean)
    torch.testing.assert_close(loaded.dit.out.weight, model.dit.out.weight, rtol=1e-3, atol=1e-3)


def test_same_seed_same_lora_bit_for_bit(model):
    condition = model.mix(torch.randn(4, 6), torch.randn(2, 5))
    flat = [model.decode(model.sample(condition, generator=torch.Generator().manual_seed(s))) for s in (1, 1, 2)]
    assert torch.equal(flat[0], flat[1])
    assert not torch.equal(flat[0], flat[2])


def test_a_generator_per_person_gives_what_each_gives_alone(model):
    conditions = torch.cat([model.mix(torch.randn(1, 6), torch.randn(1, 5)) for _ in "ab"])
    seeds = [torch.Generator().manual_seed(seed) for seed in (7, 8)]
    together = model.sample(conditions, generator=seeds)
    alone = model.sample(conditions[1:], generator=torch.Generator().manual_seed(8))
    torch.testing.assert_close(together[1:], alone)
    with pytest.raises(ValueError, match="found 3 for 2"):
        model.sample(conditions, generator=[torch.Generator() for _ in range(3)])


def test_gain_zero_is_the_average_latent(model):
    condition = model.mix(torch.randn(1, 6), None, mode="face")
    latents = model.sample(condition, generator=torch.Generator().manual_seed(0), latent_scale=0.0)
    assert torch.equal(latents, torch.zeros(1, 3, 2))


def test_gate_is_reported(model):
    _, gate = model.mix(torch.randn(3, 6), torch.randn(3, 5), return_gate=True)
    assert set(gate) == {"face", "image"}
    assert sum(gate.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("form", ["kohya", "peft", "diffusers"])
def test_lora_saves_itself(tmp_path, layout, loras, form):
    LoRA(loras[0], layout).save(tmp_path / "p.safetensors", format=form)
    assert torch.equal(read_lora(tmp_path / "p.safetensors", layout), loras[0])


def test_diffusers_is_another_name_of_peft(layout, loras):
    lora = LoRA(loras[0], layout)
    assert list(lora.state_dict("diffusers")) == list(lora.state_dict("peft"))
    assert next(iter(lora.state_dict("diffusers"))).endswith("lora_A.weight")


def test_a_lora_in_place_of_a_checkpoint_is_named(tmp_path, layout, loras):
    save_lora(tmp_path / "p.safetensors", loras[0], layout)
    with pytest.raises(ValueError, match="no DiffLoRA checkpoint but a LoRA file"):
        DiffLoRA.load(tmp_path / "p.safetensors")


def test_another_model_is_named(tmp_path):
    save_file({"w": torch.zeros(1)}, tmp_path / "p.safetensors")
    with pytest.raises(ValueError, match="some other model"):
        DiffLoRA.load(tmp_path / "p.safetensors")


def test_truncated_checkpoint_is_named(tmp_path, model):
    path = tmp_path / "m.safetensors"
    model.save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="truncated or damaged"):
        DiffLoRA.load(path)


def test_a_newer_format_asks_for_an_update(tmp_path, model, monkeypatch):
    monkeypatch.setattr("difflora_core.model.FORMAT", 2)
    model.save(tmp_path / "m.safetensors")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="format 2, this version reads up to 1"):
        DiffLoRA.load(tmp_path / "m.safetensors")


def rewrite(path, change):
    """Change a checkpoint's header by a function of it."""
    tensors, metadata = read_tensors(path)
    header = json.loads(metadata[HEADER])
    write_tensors(path, tensors, metadata | {HEADER: json.dumps(change(header))})


def test_token_kinds_come_through_the_file(tmp_path, layout, loras):
    config = replace(CONFIG, dit=replace(CONFIG.dit, token_types=(0, 1, 0), token_depths=(0, 0, 1)))
    DiffLoRA(layout, config).save(tmp_path / "m.safetensors")
    assert DiffLoRA.load(tmp_path / "m.safetensors").config == config


def test_a_field_of_a_newer_version_asks_for_an_update(tmp_path, model):
    model.save(tmp_path / "m.safetensors")
    rewrite(tmp_path / "m.safetensors", lambda h: h["config"]["dit"].update(telepathy=True) or h)
    with pytest.raises(ValueError, match="'telepathy', which this version doesn't know: update DiffLoRA"):
        DiffLoRA.load(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda header: ["other"], "is another thing"),
        (lambda header: header["config"].pop("mif") and header, "header that cannot be read: 'mif'"),
        (lambda header: header["config"]["dit"].update(width=20) or header, "weights that don't fit its header"),
    ],
)
def test_a_damaged_header_is_named(tmp_path, model, change, told):
    model.save(tmp_path / "m.safetensors")
    rewrite(tmp_path / "m.safetensors", change)
    with pytest.raises(ValueError, match=f"m.safetensors .*{told}"):
        DiffLoRA.load(tmp_path / "m.safetensors")


def test_parts_that_do_not_fit_are_refused(layout):
    wrong = DiffLoRAConfig(CONFIG.lae, CONFIG.dit, MIFConfig(face_width=6, image_width=5, width=12), CONFIG.encoders)
    with pytest.raises(ValueError, match="MIF gives 12 numbers, the DiT takes 10"):
        DiffLoRA(layout, wrong)


def test_no_reference_is_refused(model):
    with pytest.raises(ValueError, match="at least one reference"):
        model.personalize([], generator=torch.Generator())
    with pytest.raises(ValueError, match=r"reference picture 1 is the path 'ann\.png': open it first"):
        model.personalize(["ann.png"], generator=torch.Generator())


class Encoder:
    """Stands for both frozen encoders: every picture has the same embedding."""

    def __init__(self, width: int) -> None:
        self.width = width

    def open(self, *_):
        return self

    def encode(self, images):
        return torch.ones(len(images), self.width)


def test_personalize_needs_nothing_but_pictures(monkeypatch, model):
    monkeypatch.setattr("difflora_core.model.FaceEncoder", Encoder(6))
    monkeypatch.setattr("difflora_core.model.ImageEncoder", Encoder(5))
    picture = torch.zeros(8, 8, 3, dtype=torch.uint8).numpy()
    seen = []
    first, second = (
        model.personalize([picture], callback=lambda step, steps: seen.append((step, steps))) for _ in "ab"
    )
    assert torch.equal(first.flat, second.flat)
    assert seen == 2 * [(0, 3), (1, 3), (2, 3)]
    assert first.metadata["difflora"] == '{"references": 1, "seed": 0}'


def test_encoders_stay_loaded(monkeypatch, model):
    opened = []

    class Counted(Encoder):
        def open(self, *_):
            opened.append(self.width)
            return self

    monkeypatch.setattr("difflora_core.model.FaceEncoder", Counted(6))
    monkeypatch.setattr("difflora_core.model.ImageEncoder", Counted(5))
    picture = torch.zeros(8, 8, 3, dtype=torch.uint8).numpy()
    for _ in range(3):
        model.personalize([picture])
    assert opened == [6, 5]


def test_a_network_in_half_precision_takes_exact_numbers(model):
    rough = model.bfloat16()
    condition = rough.mix(torch.randn(2, 6), torch.randn(2, 5)).float()
    latents = rough.sample(condition, generator=torch.Generator().manual_seed(0))
    assert rough.decode(latents).dtype == torch.float32
    assert rough.decode(latents).isfinite().all()


def test_a_thousand_references_count_alike(model):
    faces, images = torch.randn(1000, 6), torch.randn(1000, 5)
    torch.testing.assert_close(model.mix(faces, images), model.mix(faces.flip(0), images.flip(0)), atol=1e-5, rtol=1e-4)


def test_no_reference_embedding_is_refused(model):
    with pytest.raises(ValueError, match=r"at least one reference picture, found \(0, 6\)"):
        model.mix(torch.zeros(0, 6), None)


def test_broken_latents_and_loras_are_refused_by_row(model, loras):
    latents = torch.zeros(2, 3, 2)
    latents[1, 0, 0] = torch.inf
    with pytest.raises(ValueError, match="Latents hold NaN or infinite numbers, first in row 1 of 2"):
        model.decode(latents)
    loras[4, 7] = torch.nan
    with pytest.raises(ValueError, match="Flat LoRAs hold NaN or infinite numbers, first in row 4 of 40"):
        model.encode(loras)


@pytest.mark.parametrize("shape", [(1, 2, 3), (3, 2), (0, 3, 2)])
def test_latents_of_another_model_are_refused(model, shape):
    with pytest.raises(ValueError, match=f"found \\({shape[0]}, {shape[1]}"):
        model.decode(torch.zeros(shape))


def test_loras_of_another_layout_are_refused(model, loras):
    with pytest.raises(ValueError, match="numbers \\(2 modules, rank 2\\), found"):
        model.encode(loras[:, 1:])


def test_importing_the_package_stays_cheap():
    """ComfyUI imports it at every start."""
    program = "import sys, difflora_core; print(sorted({'torch', 'diffusers'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert difflora_core.DiffLoRA is DiffLoRA
    with pytest.raises(AttributeError, match="no attribute 'DiffLora'"):
        _ = difflora_core.DiffLora
