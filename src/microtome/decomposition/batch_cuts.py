"""How a batch is cut: over processes, and over micro-batches within one."""

from itertools import pairwise

from microtome.core.distributed import Processes
from microtome.core.errors import bad_value


def own_rows(n_rows: int, processes: Processes) -> slice:
    """The rows of a batch of ``n_rows`` that this process computes: contiguous, as equal as can be.

    Raises ``MicrotomeError`` when there are fewer rows than processes.
    """
    if n_rows < processes.size:
        raise bad_value(
            "batch_size", n_rows, f"fewer rows than the {processes.size} processes", "use a larger batch"
        )
    return equal_cuts(n_rows, processes.size)[processes.rank]


def equal_cuts(n: int, parts: int) -> list[slice]:
    """``n`` rows in ``parts`` contiguous parts as equal as can be; fewer parts than asked where n is less."""
    parts = max(1, min(parts, n))
    edges = [i * n // parts for i in range(parts + 1)]
    return [slice(a, b) for a, b in pairwise(edges)]
