"""Fully sharded training (torch's FSDP2): each process holds its share of parameters, gradients, moments and EMA.

The modules that are trained stay whole for everybody but the optimizer: what is sharded is a copy, whose EMA comes back
into the whole module at the end of a call. So validation, checkpoints and states on disk know nothing of it, and a run
can go on with another number of processes.

Every process has to go through the same modules in the same order, or all wait for each other for ever: a loss function
must not draw from a part's dice what decides which modules run.
"""

from copy import deepcopy

from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(module: nn.Module, processes: int) -> nn.Module:
    """A copy whose parameters are shared between all processes, on the module's device. The module itself stays whole.

    What lies in a ModuleList (a transformer's blocks) is gathered when it is needed, one at a time; everything else
    together.
    """
    device = next(module.parameters()).device
    mesh = init_device_mesh(device.type, (processes,))
    copy = deepcopy(module)
    lists = [child for child in copy.modules() if isinstance(child, nn.ModuleList)]
    for block in (block for blocks in lists for block in blocks):
        fully_shard(block, mesh=mesh)
    fully_shard(copy, mesh=mesh)
    return copy


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, of which this process may hold a share only; then all processes have to ask."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def share(tensor: Tensor, like: Tensor) -> Tensor:
    """Of a whole tensor, on any device, what this process holds of `like`."""
    tensor = tensor.to(like.device)
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)  # everybody has the file
