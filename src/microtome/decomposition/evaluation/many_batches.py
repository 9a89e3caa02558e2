"""The error under one adversary that serves many batches at once."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from jaxtyping import Float
from torch import Tensor

from microtome.decomposition.adversary.many_batches import pgd_over_batches
from microtome.decomposition.evaluation.inputs import Labelled
from microtome.decomposition.evaluation.seen import see
from microtome.decomposition.masks import Draws
from microtome.decomposition.metric_configs import PGDMultiBatchRecon
from microtome.decomposition.result import Decomposition
from microtome.decomposition.step import Step

Begin = Callable[[], Iterable[Labelled]]


class Steps(Iterable[Step]):
    """The first ``n`` batches as steps, made anew each time they are gone through: one is in memory."""

    def __init__(
        self, d: Decomposition, batches: Callable[[], Iterable[Labelled]], n: int, seed: int
    ) -> None:
        self.d, self.batches, self.n, self.seed = d, batches, n, seed

    def __iter__(self) -> Iterator[Step]:
        for number, (x, labels) in enumerate(islice(self.batches(), self.n)):
            yield see(self.d, x, labels, Draws(self.seed + number)).step


def pgd_multi_batch(
    d: Decomposition, batches: Begin, metric: PGDMultiBatchRecon, seed: int
) -> Float[Tensor, " K"]:
    """Mean error under the worst masks that ``gradient_accumulation_steps`` batches share."""
    return pgd_over_batches(
        Steps(d, batches, metric.gradient_accumulation_steps, seed),
        sites=metric.sites,
        routing=metric.routing,
        init=metric.init,
        step_size=metric.step_size,
        n_steps=metric.n_steps,
    )
