"""The denoiser's switches: embeddings of what a token is, modulations ahead, checkpointing, compilation, dtypes."""

from dataclasses import replace

import pytest
import torch

from difflora_core.denoiser import dit
from difflora_core.denoiser.dit import CONFIGURATIONS, DiT, DiTConfig, parameter_count, token_places
from difflora_core.lora.layout import LoRALayout, LoRAModule

SMALL = DiTConfig(tokens=3, latent_width=4, width=22, layers=2, heads=3, head_width=8, condition_width=10)


def network(config: DiTConfig = SMALL) -> DiT:
    """A DiT whose zeroed layers are not zero, so that every part shows in the output."""
    torch.manual_seed(0)
    made = DiT(config)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def inputs(rows: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(rows, 3, 4, generator=g), torch.arange(rows) * 300, torch.randn(rows, 10, generator=g)


@pytest.mark.parametrize("name", sorted(CONFIGURATIONS))
def test_parameters_are_counted_exactly_and_without_memory(name):
    config = CONFIGURATIONS[name]
    with torch.device("meta"):
        made = DiT(config)
    assert parameter_count(config) == sum(tensor.numel() for tensor in made.state_dict().values())


def test_no_embeddings_of_type_and_depth_unless_asked_for():
    assert not [name for name in DiT(SMALL).state_dict() if "type" in name or "depth" in name]


def test_type_and_depth_tell_tokens_apart():
    with_kinds = network(replace(SMALL, token_types=(0, 0, 1), token_depths=(0, 1, 1)))
    torch.nn.init.zeros_(with_kinds.position)
    noisy, times, condition = inputs(1)
    same = noisy[:, :1].expand(-1, 3, -1)
    out = with_kinds(same, times, condition)[0]
    assert not torch.allclose(out[0], out[1])  # differ in depth alone
    assert not torch.allclose(out[1], out[2])  # differ in type alone
    torch.nn.init.zeros_(with_kinds.embed_type.weight)
    torch.nn.init.zeros_(with_kinds.embed_depth.weight)
    out = with_kinds(same, times, condition)[0]
    torch.testing.assert_close(out[0], out[2])


@pytest.mark.parametrize("wrong", [{"token_types": (0, 1)}, {"token_depths": (0, 1, -1)}])
def test_types_that_do_not_fit_the_tokens_are_refused(wrong):
    with pytest.raises(ValueError, match="3 numbers from 0 on, one for each token"):
        replace(SMALL, **wrong)


def test_places_of_tokens_follow_the_layout():
    names = (
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
        "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q",
        "down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_q",
        "mid_block.attentions.0.transformer_blocks.0.attn2.to_q",
    )
    layout = LoRALayout(tuple(LoRAModule(name, 2, 2) for name in names), 1)
    assert token_places(layout) == ((0, 1, 0, 1), (0, 0, 1, 2))
    types, depths = token_places(layout, "block")
    assert types == (0, 1, 2)  # other modules in each
    assert depths == (0, 1, 2)


@pytest.mark.parametrize("most", [2**24, 1])
def test_modulations_ahead_change_nothing(monkeypatch, most):
    monkeypatch.setattr(dit, "MOST_AHEAD", most)  # 1: one step at a time
    made = network()
    noisy, _, conditions = inputs(4)
    steps = torch.tensor([900, 500, 20])
    with torch.no_grad():
        ahead = [made.denoise(noisy, step) for step in made.modulations(steps, conditions[:2], copies=2)]
        for step, found in zip(steps, ahead, strict=True):
            expected = made(noisy, step.expand(4), conditions[:2].repeat_interleave(2, dim=0))
            torch.testing.assert_close(found, expected)


def test_gradient_checkpointing_gives_the_same_gradients_from_a_second_run():
    runs, gradients = [], []
    for switch in (False, True):
        made = network()
        made.gradient_checkpointing = switch
        made.blocks[0].mlp.register_forward_hook(lambda *_, switch=switch: runs.append(switch))
        made(*inputs()).square().sum().backward()
        gradients.append([parameter.grad for parameter in made.parameters()])
    assert runs == [False, True, True]
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_compiled_blocks_keep_names_and_results():
    plain, made = network(), network()
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    made.compile_blocks(backend=backend)
    with torch.no_grad():
        torch.testing.assert_close(made(*inputs()), plain(*inputs()))
    assert graphs
    assert list(made.state_dict()) == list(plain.state_dict())


def test_inputs_are_cast_to_the_networks_dtype():
    made, rounded = network().bfloat16(), network().bfloat16().float()
    noisy, times, condition = inputs()
    out = made(noisy, times, condition)
    assert out.dtype == torch.bfloat16
    assert (
        torch.nn.functional.cosine_similarity(out.float().flatten(), rounded(noisy, times, condition).flatten(), dim=0)
        > 0.999
    )


def test_conditions_of_another_model_are_refused():
    noisy, times, _ = inputs()
    with pytest.raises(ValueError, match=r"\(batch, 10\), found \(2, 11\)"):
        DiT(SMALL)(noisy, times, torch.zeros(2, 11))
