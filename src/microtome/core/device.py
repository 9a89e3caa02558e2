"""Where the arithmetic runs: device, threads and memory allocator."""

import ctypes
import os
import platform
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from microtome.core.errors import bad_value

if TYPE_CHECKING:
    import torch

# Parameter numbers of glibc's mallopt, from malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
MOST_THREADS = 64


def say(line: str) -> None:
    """The default notice: one line on standard error, so that piped results stay clean.

    Of the processes that ``torchrun`` started only the first one speaks.
    """
    if "MASTER_ADDR" in os.environ and os.environ.get("RANK", "0") not in ("", "0"):
        return
    print(line, file=sys.stderr, flush=True)  # noqa: T201


def resolve_device(name: str = "auto", note: Callable[[str], None] | None = say) -> "torch.device":
    """The torch device called ``name``; ``auto`` is CUDA when there is one, else the CPU.

    A CUDA or MPS device that this machine lacks gives a one-line ``note`` and the CPU. Raises
    ``MicrotomeError`` for a name that torch does not know.
    """
    import torch

    name = (name or "auto").strip().lower()
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise bad_value("device", name, "unknown device", "use auto, cpu, cuda, cuda:N or mps") from None
    if _is_there(device):
        return device
    if note is not None:
        note(f"device={name}: this machine (or this build of torch) has no such device; running on the CPU")
    return torch.device("cpu")


def _is_there(device: "torch.device") -> bool:
    import torch

    if device.type == "cuda":
        return torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    if device.type == "mps":
        return torch.backends.mps.is_available()
    return True


def set_threads(n: int | None = None, small: bool = True) -> int:
    """Set how many threads torch uses for one operation and return that number.

    ``None`` chooses by the size of the work: one thread for small tensors (a second thread costs more in
    waiting than it computes), otherwise OMP_NUM_THREADS or the number of cores this process may use. Beyond
    64 threads on a machine with fewer cores ``n`` is cut: thousands of threads crash.
    """
    import torch

    if n is None:
        n = 1 if small else int(os.environ.get("OMP_NUM_THREADS") or _cores())
    if n < 1:
        raise bad_value("threads", n, "must be at least 1", "leave it out to choose by the size of the work")
    n = min(n, max(_cores(), MOST_THREADS))
    torch.set_num_threads(n)
    return n


def idle_threads() -> int:
    """Threads for an operation that one core would take long for: OMP_NUM_THREADS, or the idle cores.

    At least one. Threads wait for each other at every operation, so that a thread without a core of its own
    makes a step many times slower, not faster.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    try:
        busy = round(os.getloadavg()[0])
    except (OSError, AttributeError):  # Windows
        busy = 0
    return max(1, _cores() - busy)


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def tune_allocator() -> bool:
    """Let glibc keep freed memory instead of giving it back to the system after every large tensor.

    Without this a training step spends much of its time in page faults on fresh buffers. Process-wide, so
    only commands call it. Returns False where the C library is not glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    # -1 turns trimming off altogether (mallopt(3)).
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))
