"""Fully sharded training (torch's FSDP2): each process holds its share of parameters, gradients, moments and EMA.

For everything but the optimizer the trained modules stay whole: what is sharded is a copy, whose EMA is loaded into the
full module at the end of a call. So validation, checkpoints and states on disk are independent of it, and a run can be
resumed with another number of processes.

Every process has to run the same modules in the same order, or all wait for each other forever: a loss function must
not draw from a micro-batch's generator what decides which modules run.
"""

from copy import deepcopy

from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(module: nn.Module, processes: int) -> nn.Module:
    """Copy a module onto its device with parameters that all processes share. The module itself stays whole.

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


def full_tensor(tensor: Tensor) -> Tensor:
    """Return the whole of a tensor of which this process may hold a share only; then all processes have to call it."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_share(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor."""
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def local_share(tensor: Tensor, like: Tensor) -> Tensor:
    """Return this process's share of a whole tensor, on any device, distributed as `like` is."""
    tensor = tensor.to(like.device)
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)  # all have read the file
