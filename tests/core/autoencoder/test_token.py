"""The autoencoder's transformer over modules or blocks."""

import torch
from torch.nn import functional as F

from difflora_core.autoencoder.config import LAEConfig
from difflora_core.autoencoder.token import TokenTransformer

CONFIG = LAEConfig(kind="token", tokens=2, width=2, channels=5, hidden=8, heads=2, blocks=2)
KINDS, DEPTHS = (0, 1, 0), (0, 0, 1)


def transformer() -> TokenTransformer:
    """One whose layers that start at zero are not zero, so that every part shows in the output."""
    made, generator = TokenTransformer(CONFIG, KINDS, DEPTHS), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return made


def codes() -> torch.Tensor:
    return torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(1))


def test_it_starts_as_the_identity():
    assert torch.equal(TokenTransformer(CONFIG, KINDS, DEPTHS)(codes()), codes())


@torch.no_grad()
def test_layers_are_those_of_a_pre_norm_transformer():
    """Written out with `nn.functional`; names are the state dict's."""
    made = transformer()
    state = made.state_dict()

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, (8,), state[f"{name}.weight"], state[f"{name}.bias"])

    x = linear(codes(), "widen") + state["kind_embedding"][list(KINDS)] + state["depth_embedding"][list(DEPTHS)]
    for layer in ("layers.0", "layers.1"):
        parts = linear(norm(x, f"{layer}.attention_norm"), f"{layer}.to_qkv").chunk(3, -1)
        q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in parts)
        attended = (q @ k.mT / 4**0.5).softmax(-1) @ v
        x = x + linear(attended.transpose(1, 2).flatten(2), f"{layer}.to_out")
        hidden = F.gelu(linear(norm(x, f"{layer}.mlp_norm"), f"{layer}.mlp.0"), approximate="tanh")
        x = x + linear(hidden, f"{layer}.mlp.2")
    torch.testing.assert_close(made(codes()), codes() + linear(x, "narrow"), rtol=1e-4, atol=1e-4)
