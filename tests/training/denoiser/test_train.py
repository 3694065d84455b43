"""The denoiser's trainer on people whose latents follow from their faces."""

from dataclasses import replace

import pytest
import torch

from difflora_core.autoencoder.model import LAE, LAEConfig
from difflora_core.denoiser.diffusion import SamplingConfig, sample
from difflora_core.denoiser.dit import DiTConfig
from difflora_core.denoiser.mif import MIFConfig
from difflora_core.lora.layout import LoRALayout, LoRAModule
from difflora_core.losses import DeltaWeights
from training.denoiser import validation as denoiser
from training.denoiser.command import Conditions, DiffLoRATraining, People, draw_references, train_denoiser, validate
from training.denoiser.train import DeltaTerms, denoising_loss, new_denoiser
from training.denoiser.validation import predict_latents
from training.engine import loop as training_loop
from training.engine.loop import TrainConfig

DIT = DiTConfig(tokens=2, latent_width=2, width=32, layers=1, heads=2, head_width=16, condition_width=16)
MIF_CONFIG = MIFConfig(face_width=4, image_width=4, width=16)
LOOP = TrainConfig(steps=300, learning_rate=5e-3, warmup=20, ema=0.98)
LAYOUT = LoRALayout((LoRAModule("mid_block.attentions.0.transformer_blocks.0.attn1.to_q", 6, 4),), rank=2)


@pytest.fixture
def world():
    """Latents (64, 2, 2) that are a linear map of unit faces; three pictures of each with a little noise."""
    g = torch.Generator().manual_seed(0)
    faces = torch.nn.functional.normalize(torch.randn(64, 4, generator=g), dim=1)
    pictures = faces[:, None] + 0.02 * torch.randn(64, 3, 4, generator=g)
    latents = 2.0 * faces.view(64, 2, 2)
    return latents, Conditions(pictures, pictures.flip(-1)), faces


@pytest.fixture(scope="module")
def loras():
    return torch.randn(40, LAYOUT.numel, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def lae(loras):
    """A fitted LAE with the latents of the toy DiT."""
    made = LAE(LAYOUT, LAEConfig(kind="linear", tokens=2, width=2))
    made.fit(loras)
    return made.eval().requires_grad_(False)


@pytest.mark.parametrize("blend", [0.0, 0.5])
def test_sampled_latents_follow_the_face(tmp_path, world, blend):
    latents, conditions, faces = world
    training = DiffLoRATraining(
        LOOP, batch=64, max_references=3, embedding_noise=0.05, modality_dropout=0.0, rounds=3, blend=blend
    )
    told: dict[str, dict[str, float]] = {}
    people = People(latents, conditions)
    model = train_denoiser(people, people, DIT, MIF_CONFIG, training, tmp_path, told.__setitem__)
    with torch.no_grad():
        condition, _ = model.mif(faces, faces.flip(-1))
        config = SamplingConfig(steps=10, guidance_scale=1.0, samples=4)
        made = sample(model.dit, condition, model.mif.null, (2, 2), config, torch.Generator().manual_seed(0))
    error = (made - latents).square().mean() / latents.square().mean()
    assert error < 0.25  # the average person would be 1
    assert list(told) == ["step 100", "step 200", "step 300"]
    kept = validate(model, people, training.validation_references)["r2"]
    assert kept == pytest.approx(max(figures["r2"] for figures in told.values()), abs=1e-5)


def test_a_regression_is_sampled_in_one_step_whatever_the_noise(tmp_path, world):
    latents, conditions, faces = world
    training = DiffLoRATraining(
        LOOP, objective="regression", batch=64, max_references=3, embedding_noise=0.05, modality_dropout=0.0, rounds=1
    )
    people = People(latents, conditions)
    model = train_denoiser(people, people, DIT, MIF_CONFIG, training, tmp_path, lambda *_: None)
    once = SamplingConfig(steps=1, guidance_scale=1.0, samples=1)
    with torch.no_grad():
        condition, _ = model.mif(faces, faces.flip(-1))
        one, other = (
            sample(model.dit, condition, model.mif.null, (2, 2), once, torch.Generator().manual_seed(seed))
            for seed in (0, 1)
        )
    torch.testing.assert_close(one, other)
    assert (one - latents).square().mean() / latents.square().mean() < 0.25


@pytest.mark.parametrize("objective", ["diffusion", "regression"])
def test_regression_alone_starts_blind_to_its_input(objective):
    model = new_denoiser(DIT, MIF_CONFIG, DiffLoRATraining(LOOP, objective=objective))
    assert bool(model.dit.embed.weight.any()) == (objective == "diffusion")


def test_a_resumed_run_is_the_same_bit_for_bit(tmp_path, world, lae):
    """With everything on that a run can have, stopped after the first of two rounds."""
    latents, conditions, _ = world
    counted = replace(conditions, counts=torch.arange(64) % 3 + 1)
    people = People(latents, counted)
    loop = replace(LOOP, steps=12, warmup=2, save_every=3)
    config = DiffLoRATraining(
        loop,
        batch=8,
        face_dropout=0.3,
        image_dropout=0.2,
        min_snr_gamma=5.0,
        delta_w_error=0.1,
        delta_w_direction=0.1,
        rounds=2,
    )

    class Stop(Exception):
        pass

    def run(folder, stop_at=None):
        def report(name, _):
            if name == stop_at:
                raise Stop

        model = train_denoiser(people, people, DIT, MIF_CONFIG, config, folder, report, lae)
        return torch.cat([parameter.flatten() for parameter in model.parameters()])

    through = run(tmp_path / "through")
    with pytest.raises(Stop):
        run(tmp_path / "stopped", "step 6")
    assert torch.equal(run(tmp_path / "stopped"), through)


def steps_without(config, world, steps=200):
    """How many steps had no face and how many no image."""
    missing = {"face": 0, "image": 0}

    class Watch(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def forward(self, noisy, timesteps, face, image, dropped):
            missing["face"] += face is None
            missing["image"] += image is None
            return noisy * self.weight

    loss = denoising_loss(People(*world[:2]), config)
    watch = Watch()
    for step in range(steps):
        loss(watch, step, torch.Generator().manual_seed(step))
    return missing["face"] / steps, missing["image"] / steps


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"modality_dropout": 0.0}, (0.0, 0.0)),
        ({"modality_dropout": 0.6}, (0.3, 0.3)),
        ({"modality_dropout": 0.0, "face_dropout": 0.5}, (0.5, 0.0)),
        ({"modality_dropout": 0.2, "image_dropout": 0.7}, (0.1, 0.7)),
    ],
)
def test_either_expert_is_dropped_as_often_as_asked(world, options, expected):
    found = steps_without(DiffLoRATraining(LOOP, batch=2, **options), world)
    assert found == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("mode", ["face", "image", "mean", "gate"])
def test_any_mode_can_be_trained(tmp_path, world, mode):
    """The only expert of a mode is not dropped, whatever modality_dropout says."""
    people = People(*world[:2])
    config = DiffLoRATraining(replace(LOOP, steps=8), batch=4, modality_dropout=1.0, rounds=1)
    told = {}
    train_denoiser(people, people, DIT, replace(MIF_CONFIG, mode=mode), config, tmp_path, told.__setitem__)
    assert list(told) == ["step 8"]


def test_compiled_and_checkpointed_blocks_learn_the_same(tmp_path, world, monkeypatch):
    monkeypatch.setattr(training_loop, "COMPILER", "aot_eager")  # inductor's own compiler takes long
    people = People(*world[:2])

    def trained(folder, **options):
        config = DiffLoRATraining(
            replace(LOOP, steps=4, compile=options.pop("compile", False)), batch=4, rounds=1, **options
        )
        return train_denoiser(people, people, DIT, MIF_CONFIG, config, folder, lambda *_: None).state_dict()

    plain = trained(tmp_path / "plain")
    other = trained(tmp_path / "other", compile=True, gradient_checkpointing=True)
    assert plain.keys() == other.keys()
    assert all(torch.allclose(plain[name], other[name], atol=1e-4) for name in plain)


def test_people_are_predicted_alike_in_parts_and_together(world, monkeypatch):
    model = new_denoiser(DIT, MIF_CONFIG, DiffLoRATraining(LOOP))
    torch.nn.init.normal_(model.dit.out.weight, generator=torch.Generator().manual_seed(0))
    people = People(*world[:2])
    together = predict_latents(model, people, 3)
    monkeypatch.setattr(denoiser, "PEOPLE_AT_ONCE", 7)
    torch.testing.assert_close(predict_latents(model, people, 3), together, atol=1e-5, rtol=1e-5)


def test_the_terms_through_the_decoder_see_no_fault_in_a_perfect_latent(lae):
    terms = DeltaTerms(lae, DiffLoRATraining(LOOP, delta_w_error=1.0, delta_w_direction=1.0))
    clean = torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(0))
    value, _ = terms(clean, clean, torch.full((3,), 500))
    assert float(value) == pytest.approx(0, abs=1e-4)


def test_the_terms_are_those_of_the_decoded_latents(lae):
    terms = DeltaTerms(lae, DiffLoRATraining(LOOP, delta_w_error=2.0, delta_w_direction=3.0, delta_w_rows=2))
    clean, wrong = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    value, figures = terms(wrong, clean, torch.full((3,), 500))
    deltas, made, target = DeltaWeights(LAYOUT), lae.decode(wrong[:2]), lae.decode(clean[:2])
    error, direction = deltas.relative_error(made, target), deltas.direction(made, target)
    assert float(value) == pytest.approx(float(2 * error + 3 * direction), rel=1e-5)
    assert float(figures["delta_w_error"]) == pytest.approx(float(error), rel=1e-5)
    assert float(figures["delta_w_direction"]) == pytest.approx(float(direction), rel=1e-5)


def test_only_timesteps_below_the_limit_are_decoded(lae):
    terms = DeltaTerms(lae, DiffLoRATraining(LOOP, delta_w_error=1.0, delta_w_below=300))
    clean, wrong = torch.zeros(2, 2, 2), torch.zeros(2, 2, 2)
    wrong[1] = 5.0
    assert float(terms(wrong, clean, torch.tensor([100, 300]))[0]) == pytest.approx(0, abs=1e-4)
    assert float(terms(wrong, clean, torch.tensor([300, 100]))[0]) > 0.1


def test_the_weight_changes_are_told_to_the_network(world, lae):
    """Their gradient arrives in the DiT's last layer, and is none in the LAE."""
    config = DiffLoRATraining(LOOP, batch=8, delta_w_error=1.0)
    model = new_denoiser(DIT, MIF_CONFIG, config)
    gradients = []
    for asked in (config, replace(config, delta_w_error=0.0)):
        model.zero_grad()
        denoising_loss(People(*world[:2]), asked, lae)(model, 0, torch.Generator().manual_seed(0))[0].backward()
        gradients.append(model.dit.out.bias.grad.clone())
    assert not torch.allclose(*gradients)
    assert all(parameter.grad is None for parameter in lae.parameters())


def test_validation_tells_the_direction_of_the_weight_changes(world, lae, loras):
    _, conditions, _ = world
    latents = lae.encode(loras)
    own = Conditions(conditions.face[:40], conditions.image[:40])
    model = new_denoiser(DIT, MIF_CONFIG, DiffLoRATraining(LOOP))
    torch.nn.init.normal_(model.dit.out.bias)
    figures = validate(model, People(latents, own, loras), 3, lae=lae)
    assert set(figures) == {"r2", "delta_w_cosine"}
    assert -1 <= figures["delta_w_cosine"] <= 1
    assert "delta_w_cosine" not in validate(model, People(latents, own), 3, lae=lae)


def test_a_look_adds_its_figures_to_each_round(tmp_path, world):
    people, told, rounds = People(*world[:2]), {}, []

    def look(model, number):
        rounds.append(number)
        return {"diffusion_loss": float(number)}

    config = DiffLoRATraining(replace(LOOP, steps=4), batch=4, rounds=2)
    train_denoiser(people, people, DIT, MIF_CONFIG, config, tmp_path, told.__setitem__, look=look)
    assert rounds == [1, 2]
    assert [figures["diffusion_loss"] for figures in told.values()] == [1.0, 2.0]


def test_references_are_drawn_and_averaged():
    embeddings = torch.eye(3)[None]  # one person, three orthogonal pictures
    people = torch.zeros(5, dtype=torch.long)
    g = torch.Generator().manual_seed(0)
    single = draw_references(embeddings, people, torch.ones(5, dtype=torch.long), 0.0, g)
    assert set(map(tuple, single.tolist())) <= {(1, 0, 0), (0, 1, 0), (0, 0, 1)}
    all_three = draw_references(embeddings, people, torch.full((5,), 3), 0.0, g)
    torch.testing.assert_close(all_three, torch.full((5, 3), 3**-0.5))


def test_padding_is_never_drawn():
    embeddings = torch.eye(4)[None].repeat(2, 1, 1)  # two people, four orthogonal pictures; the second has only two
    people, available = torch.tensor([0, 1]).repeat(50), torch.tensor([4, 2])
    g = torch.Generator().manual_seed(0)
    for count in (1, 2, 3):
        drawn = draw_references(embeddings, people, torch.full((100,), count), 0.0, g, available)
        assert not drawn[1::2, 2:].any()
        assert (drawn > 0).sum(1).tolist() == [count, min(count, 2)] * 50
        assert (drawn[:, :2] > 0).any(0).all()


def test_every_picture_is_drawn_alike():
    embeddings, people = torch.eye(4)[None], torch.zeros(2000, dtype=torch.long)
    g = torch.Generator().manual_seed(0)
    drawn = draw_references(embeddings, people, torch.full((2000,), 2), 0.0, g, torch.tensor([3]))
    shares = (drawn > 0).float().mean(0)
    torch.testing.assert_close(shares, torch.tensor([2 / 3, 2 / 3, 2 / 3, 0.0]), atol=0.04, rtol=0)


def test_the_first_pictures_leave_out_the_padding():
    face = torch.eye(3).repeat(2, 1, 1)
    first, _ = Conditions(face, face, torch.tensor([3, 1])).first(2)
    torch.testing.assert_close(first, torch.tensor([[0.5**0.5, 0.5**0.5, 0.0], [1.0, 0.0, 0.0]]))


@pytest.mark.parametrize("counts", [[0, 3], [2, 4]])
def test_counts_that_cannot_be_are_refused(counts):
    with pytest.raises(ValueError, match="Everybody has 1 to 3 pictures"):
        Conditions(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4), torch.tensor(counts))


def test_embeddings_of_other_pictures_are_refused():
    with pytest.raises(ValueError, match="of the same pictures"):
        Conditions(torch.zeros(2, 3, 4), torch.zeros(2, 4, 4))


def test_latents_of_other_people_are_refused():
    with pytest.raises(ValueError, match="found 5 and 2"):
        People(torch.zeros(5, 2, 2), Conditions(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4)))


def test_fewer_people_than_a_batch_are_refused(world):
    with pytest.raises(ValueError, match="A batch has 65 people, found only 64"):
        denoising_loss(People(*world[:2]), DiffLoRATraining(LOOP, batch=65))


def test_terms_through_the_lae_need_one(world):
    with pytest.raises(ValueError, match="look through the LAE, found none"):
        denoising_loss(People(*world[:2]), DiffLoRATraining(LOOP, delta_w_error=1.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "guess"}, "objective is diffusion or regression, found 'guess'"),
        ({"batch": 0}, "at least 1"),
        ({"face_dropout": 0.8, "image_dropout": 0.3}, r"between 0 and 1 together, found \(0.8, 0.3\)"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DiffLoRATraining(LOOP, **options)
