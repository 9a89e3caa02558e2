"""A batch that is cut into micro-batches is attacked as one."""

from collections.abc import Iterable, Iterator

from microtome.decomposition.step import Step


class Parts(Iterable[Step]):
    """All micro-batches of this process' rows, each about to draw the random numbers that ``step`` is about
    to draw. Made anew whenever they are gone through, so that only one is in memory; a batch that is not cut
    is its own only part.
    """

    def __init__(self, step: Step) -> None:
        self.step, self.drawn = step, step.draws.drawn

    def __iter__(self) -> Iterator[Step]:
        parts = self.step.whole_batch.parts
        if parts is None:
            self.step.draws.go_on_from(self.drawn)
            yield self.step
            return
        for part in parts():
            part.draws.go_on_from(self.drawn)
            yield part

    def __len__(self) -> int:
        return self.step.whole_batch.n_parts
