"""Data parallelism under ``torchrun``: who we are, sums over all processes, and a fair share of the work."""

import datetime
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from microtome.core.device import resolve_device
from microtome.core.errors import MicrotomeError
from microtome.core.heartbeat import Heartbeat, first_to_tell, job_store

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")

# What torchrun puts into the environment; SLURM alone sets RANK-like names without a meeting point.
_LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# Another process may still be reading a large file, or drawing; one that is gone is noticed much sooner.
_PATIENCE = datetime.timedelta(hours=2)
_groups = itertools.count()  # that this process joined, one after the other


class LostProcess(MicrotomeError):
    """Another process of the job ended or fell silent."""


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
def processes(
    device: str = "auto", *, watched: bool = False, mend: Callable[[], str] = str
) -> Iterator[Processes]:
    """Join the processes that ``torchrun`` started, for the length of the block.

    Tensors on the CPU travel by gloo, those on CUDA by NCCL, each process on its own GPU (``LOCAL_RANK``).
    Without torchrun, or as the only process, nothing is started. A group that is there already is used and
    left as it is. With ``watched`` the end or the silence of one process ends the others within half a
    minute, and an error that stops several of them is told by the first one only; ``mend`` makes
    the words that say what to do after a loss.
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
    number = next(_groups)
    how: dict[str, Any] = {"timeout": _PATIENCE}
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        # A store of its own for every group: in a second group's, the first one's addresses would be found.
        how |= {"store": job_store(number, _PATIENCE), "rank": own.rank, "world_size": own.size}
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_cuda else "gloo", **how)
    try:
        with ExitStack() as stack:
            if watched:
                stack.enter_context(_watched(own, job_store(number), mend))
            yield own
            # A process that leaves while another still talks to it may be aborted by its own network threads.
            wait_for_all(own)
    finally:
        dist.destroy_process_group()


@contextmanager
def _watched(own: Processes, store: Any, mend: Callable[[], str]) -> Iterator[None]:
    """The others' signs of life; and errors of all processes told once."""

    def silent(rank: int) -> str:
        return str(_lost(f"process {rank} fell silent", mend))

    beat = Heartbeat(own.rank, own.size, silent, store=store)
    try:
        with beat:
            yield
    except LostProcess as error:
        if not first_to_tell(beat.store):
            raise SystemExit(2) from None
        raise _lost(str(error), mend) from None
    except (MicrotomeError, KeyboardInterrupt) as error:
        if not first_to_tell(beat.store):
            raise SystemExit(130 if isinstance(error, KeyboardInterrupt) else 2) from None
        raise


def _lost(what: str, mend: Callable[[], str]) -> LostProcess:
    return LostProcess("; ".join(filter(None, (f"{what}, the job stops", mend()))))


@contextmanager
def _exchange() -> Iterator[None]:
    """Turns the libraries' complaint that a partner is gone into one line."""
    try:
        yield
    except RuntimeError as error:
        raise LostProcess("another process of this job ended") from error


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
    with _exchange():
        dist.all_reduce(tensor, op=dist.ReduceOp.SUM)
    return tensor


def copy_from_main(tensors: "Iterable[Tensor]", processes: Processes) -> None:
    """Give ``tensors`` the main process' values in every process, in place."""
    if processes.size == 1:
        return
    import torch.distributed as dist

    with _exchange():
        for tensor in tensors:
            dist.broadcast(tensor.detach(), 0)


def wait_for_all(processes: Processes) -> None:
    """Go on when every process has come here, such as after the main one has written a file."""
    if processes.size == 1:
        return
    import torch.distributed as dist

    with _exchange():
        dist.barrier()


def anyone(flags: Sequence[bool], processes: Processes) -> list[bool]:
    """Which of the flags is set in any process: how all come to the same decision at the same step."""
    if processes.size == 1:
        return list(flags)
    import torch

    return (all_reduce_sum(torch.tensor([float(flag) for flag in flags]), processes) > 0).tolist()


def from_main(value: T, processes: Processes) -> T:
    """The main process' value, in every process."""
    if processes.size == 1:
        return value
    import torch.distributed as dist

    held: list[Any] = [value]
    with _exchange():
        dist.broadcast_object_list(held, src=0)
    return held[0]


def refuse_differences(facts: Mapping[str, str], processes: Processes, mend: str) -> None:
    """Raise ``MicrotomeError``, in every process, when they do not all hold the same ``facts``."""
    if processes.size == 1:
        return
    import torch.distributed as dist

    every: list[Any] = [None] * processes.size
    with _exchange():
        dist.all_gather_object(every, dict(facts))
    for rank, other in enumerate(every):
        for name, value in every[0].items():
            if other.get(name) != value:
                raise MicrotomeError(
                    f"process {rank} was started with another {name} than process 0"
                    f" ({_short(other.get(name))}, not {_short(value)}); {mend}"
                )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def share(items: Sequence[T], processes: Processes) -> Sequence[T]:
    """This process' items: every ``size``-th, from its rank on. All of them for one process."""
    return items[processes.rank :: processes.size] if processes.size > 1 else items
