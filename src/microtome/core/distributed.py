"""Data parallelism under ``torchrun``: who we are, sums over all processes, and a fair share of the work."""

import datetime
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from microtome.core.device import resolve_device
from microtome.core.errors import MicrotomeError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")

# What torchrun puts into the environment; SLURM alone sets RANK-like names without a meeting point.
_LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_PATIENCE = datetime.timedelta(hours=2)  # another process may still be reading a large file


@dataclass(frozen=True)
class Processes:
    """This process among those that ``torchrun`` started; alone, rank 0 of 1."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def main(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0


def launched_processes() -> Processes:
    """What the environment says of this process, without starting anything. Raises ``MicrotomeError``."""
    if any(name not in os.environ for name in _LAUNCHED):
        return Processes()
    numbers = {name: os.environ.get(name, "0") for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    for name, value in numbers.items():
        if not value.isdigit():
            raise MicrotomeError(f"{name}={value!r}: not a whole number; start several processes by torchrun")
    return Processes(int(numbers["RANK"]), int(numbers["WORLD_SIZE"]), int(numbers["LOCAL_RANK"]))


@contextmanager
def processes(device: str = "auto") -> Iterator[Processes]:
    """Join the processes that ``torchrun`` started, for the length of the block.

    Tensors on the CPU travel by gloo, those on CUDA by NCCL, each process on its own GPU (``LOCAL_RANK``).
    Without torchrun, or as the only process, nothing is started. A group that is there already is used and
    left as it is.
    """
    import torch
    import torch.distributed as dist

    own = launched_processes()
    if own.size == 1 or (dist.is_available() and dist.is_initialized()):
        yield own
        return
    on_cuda = process_device(device, own).type == "cuda"
    if on_cuda:
        torch.cuda.set_device(own.local_rank % torch.cuda.device_count())
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_cuda else "gloo", timeout=_PATIENCE)
    try:
        yield own
        # A process that leaves while another still talks to it may be aborted by its own network threads.
        dist.barrier()
    finally:
        dist.destroy_process_group()


def process_device(name: str, processes: Processes) -> "torch.device":
    """The device ``name`` of this process: ``cuda`` (or ``auto``) is the GPU of its local rank."""
    import torch

    device = resolve_device(name, *(() if processes.main else (None,)))
    if device.type == "cuda" and processes.size > 1:
        return torch.device("cuda", processes.local_rank % torch.cuda.device_count())
    return device


def all_reduce_sum(tensor: "Tensor", processes: Processes) -> "Tensor":
    """The sum of ``tensor`` over all processes, in place where it is contiguous; itself for one process."""
    if processes.size == 1:
        return tensor
    import torch.distributed as dist

    tensor = tensor.contiguous()
    dist.all_reduce(tensor, op=dist.ReduceOp.SUM)
    return tensor


def wait_for_all(processes: Processes) -> None:
    """Go on when every process has come here, such as after the main one has written a file."""
    if processes.size == 1:
        return
    import torch.distributed as dist

    dist.barrier()


def share(items: Sequence[T], processes: Processes) -> Sequence[T]:
    """This process' items: every ``size``-th, from its rank on. All of them for one process."""
    return items[processes.rank :: processes.size] if processes.size > 1 else items
