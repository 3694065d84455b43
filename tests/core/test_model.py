"""From embeddings and from images to LoRAs, and back."""

import json
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

import difflora_core
from difflora_core.encoders.face_encoder import EncodedFace
from difflora_core.lora.lora import METADATA_KEY
from difflora_core.model import DiffLoRA


def test_same_seed_same_lora_bit_for_bit(model):
    condition = model.mix(torch.randn(4, 6), torch.randn(2, 5)).condition
    flat = [model.decode(model.sample(condition, generator=torch.Generator().manual_seed(s))) for s in (1, 1, 2)]
    assert torch.equal(flat[0], flat[1])
    assert not torch.equal(flat[0], flat[2])


def test_a_generator_per_person_gives_what_each_gives_alone(model):
    conditions = torch.cat([model.mix(torch.randn(1, 6), torch.randn(1, 5)).condition for _ in "ab"])
    seeds = [torch.Generator().manual_seed(seed) for seed in (7, 8)]
    together = model.sample(conditions, generator=seeds)
    alone = model.sample(conditions[1:], generator=torch.Generator().manual_seed(8))
    torch.testing.assert_close(together[1:], alone)
    with pytest.raises(ValueError, match="found 3 for 2"):
        model.sample(conditions, generator=[torch.Generator() for _ in range(3)])


def test_latent_scale_zero_is_the_average_latent(model):
    condition = model.mix(torch.randn(1, 6), None, mode="face").condition
    latents = model.sample(condition, generator=torch.Generator().manual_seed(0), latent_scale=0.0)
    assert torch.equal(latents, torch.zeros(1, 3, 2))


def test_candidates_of_one_person_differ_with_the_temperature(model):
    condition = model.mix(torch.randn(4, 6), torch.randn(2, 5)).condition

    def candidates(**sampling):
        generators = [torch.Generator().manual_seed(seed) for seed in (1, 2, 3, 1)]
        return model.decode(model.sample(condition.expand(4, -1), generator=generators, **sampling))

    plain, cool, hot = candidates(), candidates(temperature=0.3), candidates(temperature=0.6)
    assert torch.equal(plain, candidates(temperature=0.0))
    assert torch.equal(hot[0], hot[3])
    assert torch.equal(hot, candidates(temperature=0.6))
    assert plain[:3].std(0).mean() < cool[:3].std(0).mean() < hot[:3].std(0).mean()


def test_the_gate_s_weights_are_returned(model):
    mixed = model.mix(torch.randn(3, 6), torch.randn(3, 5))
    assert mixed.face_weight + mixed.image_weight == pytest.approx(1.0)
    shared = model.mix(torch.randn(3, 6), torch.randn(3, 5), image_share=0.25)
    assert (shared.face_weight, shared.image_weight) == (0.75, 0.25)


def test_networks_that_do_not_fit_one_another_are_refused(layout, config):
    with pytest.raises(ValueError, match="MIF's condition has width 12, the DiT takes 10"):
        DiffLoRA(layout, replace(config, mif=replace(config.mif, width=12)))
    with pytest.raises(ValueError, match="LAE's latent is 3 × 3, the DiT's 3 × 2"):
        DiffLoRA(layout, replace(config, lae=replace(config.lae, width=3)))


def test_impossible_settings_are_refused_before_any_image_is_read(model):
    with pytest.raises(ValueError, match="found 0"):
        model.personalize(["ann.png"], steps=0)
    with pytest.raises(
        ValueError, match="temperature: found 3, expected a finite number of at least 0 and of at most 2"
    ):
        model.personalize(["ann.png"], temperature=3)
    with pytest.raises(ValueError, match="there is no sampling setting 'scale'; there are steps, guidance_scale, sch"):
        model.personalize(["ann.png"], scale=1.2)
    with pytest.raises(ValueError, match=r"generator is a list, expected one torch\.Generator for the person"):
        model.personalize(["ann.png"], generator=[torch.Generator()])
    with pytest.raises(ValueError, match="MIF's modes are gate, mean, face, image, found 'photo'"):
        model.personalize(["ann.png"], mode="photo")


class Encoder:
    """Stands for both frozen encoders: every image has the same embedding."""

    def __init__(self, width: int) -> None:
        self.width = width

    def open(self, *_):
        return self

    def find(self, image, *_):
        return EncodedFace(torch.ones(self.width), torch.zeros(1), torch.zeros(1, 5))

    def encode(self, images):
        return torch.ones(len(images), self.width)


def test_personalize_needs_nothing_but_images(monkeypatch, model):
    monkeypatch.setattr("difflora_core.encoders.loaded.FaceEncoder", Encoder(6))
    monkeypatch.setattr("difflora_core.encoders.loaded.ImageEncoder", Encoder(5))
    image = torch.zeros(8, 8, 3, dtype=torch.uint8).numpy()
    seen = []
    first, second = (model.personalize([image], callback=lambda step, steps: seen.append((step, steps))) for _ in "ab")
    assert torch.equal(first.flat, second.flat)
    assert seen == 2 * [(0, 3), (1, 3), (2, 3)]
    recommended = asdict(model.config.sampling)
    assert first.made_by == {"references": 1, "seed": 0, "mode": "gate", **recommended}
    varied = model.personalize([image], mode="face", steps=None, temperature=np.float32(0.5))
    assert not torch.allclose(varied.flat, first.flat, rtol=1e-2)
    assert varied.made_by == {"references": 1, "seed": 0, "mode": "face", **recommended, "temperature": 0.5}
    assert json.loads(varied.metadata[METADATA_KEY]) == varied.made_by
    generator = torch.Generator().manual_seed(3)
    recorded = [model.personalize([image], generator=generator).made_by["seed"] for _ in "ab"]
    assert recorded == [3, "none: the generator had been used before"]


@pytest.mark.parametrize("path", ["model.safetensors", "./model.safetensors", "../difflora/model.safetensors"])
def test_encoders_are_looked_for_beside_the_checkpoint_s_folder(tmp_path, monkeypatch, model, path):
    (tmp_path / "difflora").mkdir()
    model.save(tmp_path / "difflora" / "model.safetensors")
    monkeypatch.chdir(tmp_path / "difflora")
    assert DiffLoRA.load(path).encoders.models == tmp_path


def test_encoders_stay_loaded(monkeypatch, model):
    opened = []

    class Counted(Encoder):
        def open(self, *_):
            opened.append(self.width)
            return self

    monkeypatch.setattr("difflora_core.encoders.loaded.FaceEncoder", Counted(6))
    monkeypatch.setattr("difflora_core.encoders.loaded.ImageEncoder", Counted(5))
    image = torch.zeros(8, 8, 3, dtype=torch.uint8).numpy()
    for _ in range(3):
        model.personalize([image])
    assert opened == [6, 5]


def test_a_network_in_half_precision_takes_and_gives_float32(model):
    rough = model.bfloat16()
    condition = rough.mix(torch.randn(2, 6), torch.randn(2, 5)).condition.float()
    latents = rough.sample(condition, generator=torch.Generator().manual_seed(0))
    assert rough.decode(latents).dtype == torch.float32
    assert rough.decode(latents).isfinite().all()


def test_a_thousand_references_count_alike(model):
    faces, images = torch.randn(1000, 6), torch.randn(1000, 5)
    one, other = model.mix(faces, images), model.mix(faces.flip(0), images.flip(0))
    torch.testing.assert_close(one.condition, other.condition, atol=1e-5, rtol=1e-4)


def test_no_reference_embedding_is_refused(model):
    with pytest.raises(ValueError, match=r"at least one reference image, found \(0, 6\)"):
        model.mix(torch.zeros(0, 6), None)


def test_broken_latents_and_loras_are_refused_by_row(model, loras):
    latents = torch.zeros(2, 3, 2)
    latents[1, 0, 0] = torch.inf
    with pytest.raises(ValueError, match="Latents hold NaN or infinite values, first in row 1 of 2"):
        model.decode(latents)
    loras[4, 7] = torch.nan
    with pytest.raises(ValueError, match="Flat LoRAs hold NaN or infinite values, first in row 4 of 40"):
        model.encode(loras)


@pytest.mark.parametrize("shape", [(1, 2, 3), (3, 2), (0, 3, 2)])
def test_latents_of_another_model_are_refused(model, shape):
    with pytest.raises(ValueError, match=f"found \\({shape[0]}, {shape[1]}"):
        model.decode(torch.zeros(shape))


def test_loras_of_another_layout_are_refused(model, loras):
    with pytest.raises(ValueError, match="weights \\(2 modules, rank 2\\), found"):
        model.encode(loras[:, 1:])


def test_importing_the_package_stays_cheap():
    """ComfyUI imports it at every start."""
    program = "import sys, difflora_core; print(sorted({'torch', 'diffusers'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert difflora_core.DiffLoRA is DiffLoRA
    with pytest.raises(AttributeError, match="no attribute 'DiffLora'"):
        _ = difflora_core.DiffLora


def test_latents_that_decode_to_infinity_are_refused(model):
    model.lae.factor_scale *= 1e20
    with pytest.raises(ValueError, match="Decoded LoRAs hold NaN or infinite values"):
        model.decode(torch.full((1, 3, 2), 1e30))
