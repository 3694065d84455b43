"""The transformer: sizes, starts that training relies on, embeddings of tokens, checkpointing, compilation, dtypes."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from difflora_core.denoiser.config import CONFIGURATIONS, PAPER, DiTConfig
from difflora_core.denoiser.dit import DiT, RMSNorm, parameter_count, timestep_embedding

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


def test_the_papers_denoiser_has_16_layers_of_width_1454():
    with torch.device("meta"):
        network = DiT(PAPER)
    assert len(network.blocks) == 16
    assert network.position.shape[-1] == 1454
    assert 1454 % PAPER.head_width != 0  # the head width is independent of the width
    w, inner, hidden = 1454, 23 * 64, int(1454 * 4.0)
    attention = (w + 1) * 3 * inner + 2 * 64 + (inner + 1) * w
    block = attention + (w + 1) * hidden + (hidden + 1) * w + (w + 1) * 6 * w
    ends = (128 + 1) * w + 160 * w + (256 + 1) * w + (w + 1) * w + (w + 1) * w + (w + 1) * 2 * w + (w + 1) * 128
    assert sum(p.numel() for p in network.parameters()) == 16 * block + ends


@torch.no_grad()
def test_blocks_are_those_of_adaln_zero():
    """Written out with `nn.functional` from DiT's figure 3 (arXiv 2212.09748); names are the state dict's."""
    made, (noisy, timesteps, condition) = network(), inputs()
    state, width = made.state_dict(), SMALL.width

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def modulated(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, (width,), eps=1e-6) * (1 + scale) + shift

    def head(x: torch.Tensor, name: str) -> torch.Tensor:
        heads = x.unflatten(-1, (SMALL.heads, SMALL.head_width)).transpose(1, 2)
        return F.rms_norm(heads, (SMALL.head_width,), state[name], 1e-6) if name else heads

    time = linear(F.silu(linear(timestep_embedding(timesteps, 256), "embed_time.0")), "embed_time.2")
    mixed = F.silu(time + linear(condition, "embed_condition"))
    x = linear(noisy, "embed") + state["position"]
    for block in ("blocks.0", "blocks.1"):
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = linear(mixed, f"{block}.modulation")[:, None].chunk(6, -1)
        q, k, v = linear(modulated(x, shift_a, scale_a), f"{block}.attention.to_qkv").chunk(3, -1)
        q, k = head(q, f"{block}.attention.norm_q.weight"), head(k, f"{block}.attention.norm_k.weight")
        weights = (q @ k.mT / SMALL.head_width**0.5).softmax(-1)
        x = x + gate_a * linear((weights @ head(v, "")).transpose(1, 2).flatten(2), f"{block}.attention.to_out")
        hidden = F.gelu(linear(modulated(x, shift_m, scale_m), f"{block}.mlp.0"), approximate="tanh")
        x = x + gate_m * linear(hidden, f"{block}.mlp.2")
    shift, scale = linear(mixed, "modulation_out")[:, None].chunk(2, -1)
    expected = linear(modulated(x, shift, scale), "out")
    torch.testing.assert_close(made(noisy, timesteps, condition), expected, rtol=1e-4, atol=1e-4)


def test_an_untrained_denoiser_predicts_the_average_person():
    network = DiT(SMALL)
    out = network(torch.randn(2, 3, 4), torch.tensor([5, 900]), torch.randn(2, 10))
    assert torch.equal(out, torch.zeros(2, 3, 4))


def test_output_depends_on_time_condition_and_position():
    torch.manual_seed(0)
    network = DiT(SMALL)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x, c = torch.randn(1, 3, 4).expand(2, -1, -1), torch.randn(1, 10).expand(2, -1)
    early_late = network(x, torch.tensor([1, 900]), c)
    assert not torch.allclose(early_late[0], early_late[1])
    other = network(x, torch.tensor([1, 1]), torch.cat([c[:1], -c[:1]]))
    assert not torch.allclose(other[0], other[1])
    same_tokens = network(torch.ones(1, 3, 4), torch.tensor([1]), c[:1])
    assert not torch.allclose(same_tokens[0, 0], same_tokens[0, 1])


def test_wrong_latents_are_refused_with_both_shapes():
    with pytest.raises(ValueError, match=r"\(batch, 3, 4\), found \(1, 4, 3\)"):
        DiT(SMALL)(torch.zeros(1, 4, 3), torch.tensor([0]), torch.zeros(1, 10))


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


def test_latents_that_share_a_condition_stand_side_by_side():
    made = network()
    noisy, times, condition = inputs(4)
    with torch.no_grad():
        shared = made(noisy, times[:2], condition[:2])
        each = made(noisy, times[:2].repeat_interleave(2), condition[:2].repeat_interleave(2, dim=0))
    torch.testing.assert_close(shared, each)
    with pytest.raises(ValueError, match="found 4 latents, 3 conditions"):
        made(noisy, times[:3], condition[:3])


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_rms_norm_equals_torchs_with_the_weight_in_the_inputs_dtype(dtype, autocast):
    torch.manual_seed(0)
    ours, theirs = RMSNorm(8, eps=1e-6), torch.nn.RMSNorm(8, eps=1e-6)
    torch.nn.init.normal_(theirs.weight)
    ours.load_state_dict(theirs.state_dict())
    outs = []
    for norm in (ours, theirs):
        x = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = norm(x)
        out.float().square().sum().backward()
        assert out.dtype == x.grad.dtype == dtype
        assert norm.weight.grad.dtype == torch.float32
        outs.append((out, x.grad, norm.weight.grad))
    if dtype == torch.float32:
        assert all(torch.equal(one, other) for one, other in zip(*outs, strict=True))
    for one, other in zip(*outs, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-2)


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
