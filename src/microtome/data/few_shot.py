"""Episodes of few-shot learning: some classes, a few labelled images of each, and others to tell apart."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from microtome.core.config_keys import nearest
from microtome.core.errors import bad_value
from microtome.data.labelled_images import LabelledImages, Labels


@dataclass(frozen=True)
class Episode:
    """One task: ``support`` images to learn from, ``query`` images to be judged by. Classes count from 0."""

    support_x: Float[Tensor, "S C H W"]
    support_y: Int[Tensor, " S"]
    query_x: Float[Tensor, "Q C H W"]
    query_y: Int[Tensor, " Q"]


class Episodes:
    """A source of random episodes.

    Each draws ``ways`` classes of ``label`` and of each ``shots`` support and ``queries`` query images, none
    twice (Vinyals et al. 2016). ``rotations`` makes four classes of each, one a quarter turn. ``within``
    names another label (``alphabet``, ``problem``) of which one episode sees a single value. Classes are
    numbered in random order, unless every value of ``within`` has just the ``ways`` classes there are: then
    a class means the same in each, and keeps its number. Raises ``MicrotomeError`` when images are too few.
    """

    def __init__(
        self,
        images: LabelledImages,
        label: str,
        *,
        ways: int,
        shots: int,
        queries: int,
        generator: torch.Generator,
        rotations: bool = False,
        within: str | None = None,
        mean: float = 0.5,
        std: float = 0.5,
    ) -> None:
        self.images, self.ways, self.shots, self.queries = images, ways, shots, queries
        self.mean, self.std, self.generator = mean, std, generator
        self.turns = 4 if rotations else 1
        labels = label_of(images, label)
        self.ordered = within is not None and ways == len(labels.names)
        self.pools = [
            _classes(labels, rows, shots, queries, label)
            for rows in _groups(images, within)
            if len(np.unique(labels.values[rows])) * self.turns >= ways
        ]
        if not self.pools:
            where = f" within one {within}" if within else ""
            most = max(len(np.unique(labels.values[rows])) for rows in _groups(images, within)) * self.turns
            raise bad_value("ways", ways, f"only {most} classes of {label!r}{where}", f"use {most} or fewer")

    def draw(self) -> Episode:
        """The next episode."""
        pool = self.pools[self._integer(len(self.pools))]
        chosen = torch.randperm(len(pool) * self.turns, generator=self.generator)[: self.ways]
        if self.ordered and self.turns == 1:
            chosen = chosen.sort().values
        support, query = [], []
        for number in chosen.tolist():
            turn, place = divmod(number, len(pool))
            rows = pool[place]
            picked = rows[torch.randperm(len(rows), generator=self.generator)[: self.shots + self.queries]]
            x = self.images.inputs(picked, mean=self.mean, std=self.std)
            x = torch.rot90(x, turn, (2, 3)) if turn else x
            support.append(x[: self.shots])
            query.append(x[self.shots :])
        classes = torch.arange(self.ways)
        return Episode(
            torch.cat(support),
            classes.repeat_interleave(self.shots),
            torch.cat(query),
            classes.repeat_interleave(self.queries),
        )

    def _integer(self, below: int) -> int:
        return int(torch.randint(below, (), generator=self.generator))


def label_of(images: LabelledImages, label: str) -> Labels:
    """One of the images' labels by name. Raises ``MicrotomeError`` with the names there are."""
    if label not in images.labels:
        near = nearest(label, list(images.labels))
        mend = f"did you mean {near}?" if near else f"choose one of {', '.join(images.labels)}"
        raise bad_value("label", label, f"{images.source} has no such label", mend)
    return images.labels[label]


def images_of(images: LabelledImages, label: str, names: Sequence[str]) -> LabelledImages:
    """Only the images whose ``label`` is called one of ``names``; classes are numbered anew."""
    labels = label_of(images, label)
    unknown = [name for name in names if name not in labels.names]
    if unknown:
        raise bad_value(
            label, unknown[0], f"{images.source} has no such class", f"choose from {', '.join(labels.names)}"
        )
    numbers = [labels.names.index(name) for name in names]
    rows = np.flatnonzero(np.isin(labels.values, numbers))
    kept = {}
    for name, each in images.labels.items():
        present = np.unique(each.values[rows])
        kept[name] = Labels(
            np.searchsorted(present, each.values[rows]), tuple(each.names[number] for number in present)
        )
    return LabelledImages(
        images.pixels[torch.as_tensor(rows)],
        kept,
        tuple(images.names[row] for row in rows),
        images.source,
    )


def _groups(images: LabelledImages, within: str | None) -> list[np.ndarray]:
    if within is None:
        return [np.arange(len(images))]
    values = label_of(images, within).values
    return [np.flatnonzero(values == value) for value in np.unique(values)]


def _classes(labels: Labels, rows: np.ndarray, shots: int, queries: int, label: str) -> list[Tensor]:
    """Rows of each class among ``rows``."""
    pool = []
    for number in np.unique(labels.values[rows]):
        own = rows[labels.values[rows] == number]
        if len(own) < shots + queries:
            raise bad_value(
                "queries",
                queries,
                f"{label} {labels.names[number]!r} has {len(own)} images for them and for shots={shots}",
                "lower queries or shots",
            )
        pool.append(torch.as_tensor(own))
    return pool
