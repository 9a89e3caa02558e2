"""Where a stopped analysis is carried on from, and what is said when memory runs out."""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from microtome.core.distributed import Processes
from microtome.core.errors import CannotLoad, MicrotomeError
from microtome.core.runs import RunFolder
from microtome.gradients.accumulate import Accumulator
from microtome.gradients.setup import Prepared

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


@dataclass(frozen=True)
class Checkpoints:
    """The sums after some of a run's chunks; without a folder nothing is kept."""

    run: RunFolder | None
    processes: Processes
    fingerprint: str
    chunks: int

    @property
    def folder(self) -> RunFolder | None:
        """Where this process keeps its own: with several processes, below the run's folder."""
        if self.run is None or self.processes.size == 1:
            return self.run
        return RunFolder(self.run.path / "checkpoints" / f"process_{self.processes.rank}")

    def save(self, accumulator: Accumulator, done: int, samples: int) -> None:
        """Keep the sums after ``done`` chunks."""
        if self.folder is None:
            return
        extra = {"done": done, "samples": samples, "chunks": self.chunks, "fingerprint": self.fingerprint}
        state = {name: tensor.cpu().contiguous() for name, tensor in accumulator.state().items()}
        self.folder.save_checkpoint(done, state, extra)

    def restore(self, accumulator: Accumulator) -> tuple[int, int]:
        """Take the last sums; returns the chunks and samples they hold, 0 where there are none.

        Raises ``CannotLoad`` when they are of other texts, layers or processes.
        """
        found = self.folder.latest_checkpoint() if self.folder is not None else None
        if found is None:
            return 0, 0
        _, state, extra = found
        if extra.get("fingerprint") != self.fingerprint or extra.get("chunks") != self.chunks:
            raise CannotLoad(
                f"{self.run.path if self.run else ''}: the texts, the settings or the number of processes"
                " have changed since the run was stopped; undo that, or start anew"
            )
        accumulator.restore(state)
        return int(extra["done"]), int(extra["samples"])


def fingerprint(prepared: Prepared, processes: Processes) -> str:
    """What must not change between stopping and carrying on."""
    digest = hashlib.sha256(f"{processes.size} {prepared.layers} {prepared.site}".encode())
    for text in prepared.texts:
        digest.update(text.encode("utf-8", "replace"))
    return digest.hexdigest()[:16]


def remove_checkpoints(run: RunFolder) -> None:
    """A finished run needs none."""
    shutil.rmtree(run.path / "checkpoints", ignore_errors=True)


@contextmanager
def told_what_to_lower() -> Iterator[None]:
    """Running out of memory as one line with the settings that help."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(sign in str(error) for sign in OUT_OF_MEMORY):
            raise
        raise MicrotomeError(
            "out of memory; lower --batch_size, --max_length or --max_tokens_in_memory, take"
            " --dtype bfloat16, or --activation_checkpointing"
        ) from error
