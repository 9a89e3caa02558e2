"""Which labels can be probed, on which images, in which folds: the same whatever order the images came in."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Shaped

from microtome.comparison.image_order import image_keys
from microtome.core.errors import MicrotomeError, bad_value
from microtome.core.seeds import stream_seed
from microtome.data.labelled_images import LabelledImages


@dataclass(frozen=True)
class Task:
    """One label of a set of images. ``values`` are 0..c-1 for the images of the task's group."""

    name: str
    values: Int[np.ndarray, " n"]
    classes: tuple[str, ...]

    @property
    def chance(self) -> float:
        """Accuracy of always naming the most frequent class."""
        return float(np.bincount(self.values).max() / len(self.values))


@dataclass(frozen=True)
class Group:
    """Tasks that are probed on the same images: rows of the activations, ordered by content, and folds."""

    rows: Int[np.ndarray, " n"]
    folds: Int[np.ndarray, " n"]
    tasks: tuple[Task, ...]


def content_order(images: LabelledImages) -> Int[np.ndarray, " N"]:
    """Image numbers by content, then by labels: the same images give the same order however they came."""
    ties = [images.labels[name].values for name in sorted(images.labels, reverse=True)]
    return np.lexsort([*ties, image_keys(images)])


def probe_groups(
    images: LabelledImages,
    names: Sequence[str],
    *,
    folds: int,
    min_images: int,
    seed: int,
) -> tuple[list[Group], list[str]]:
    """The tasks of ``names`` (default: every label), grouped by the images they use, and remarks.

    Classes of fewer than ``max(folds, min_images)`` images are left out, said in a remark; images with a
    negative class number are unlabelled. Raises ``MicrotomeError`` in one line when no label is left.
    """
    for name in names:
        if name not in images.labels:
            known = ", ".join(images.labels) or "none"
            raise bad_value("tasks", name, "the images have no such label", f"choose among: {known}")
    order = content_order(images)
    fewest = max(folds, min_images)
    kept: dict[bytes, tuple[np.ndarray, list[Task]]] = {}
    remarks: list[str] = []
    for name in names or images.labels:
        labels = images.labels[name]
        rows, values, classes = _usable(labels.values[order], labels.names, fewest)
        left_out = len(labels.names) - len(classes)
        if len(classes) < 2:
            remarks.append(f"{name}: fewer than two classes with {fewest} images or more; not probed")
            continue
        if left_out:
            remarks.append(
                f"{name}: {left_out} of {len(labels.names)} classes are left out: fewer than {fewest} images"
            )
        kept.setdefault(rows.tobytes(), (order[rows], []))[1].append(Task(name, values, classes))
    if not kept:
        raise MicrotomeError(
            f"probes: no label has two classes with {fewest} images or more; give more images"
        )
    groups = [
        Group(rows, stratified_folds([task.values for task in tasks], folds, seed), tuple(tasks))
        for rows, tasks in kept.values()
    ]
    return groups, remarks


def _usable(
    values: np.ndarray, names: tuple[str, ...], fewest: int
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Images of classes that are large enough, their renumbered classes, and the classes' names."""
    counts = np.bincount(values[values >= 0], minlength=len(names))
    classes = np.flatnonzero(counts >= fewest)
    rows = np.flatnonzero(np.isin(values, classes))
    return rows, np.searchsorted(classes, values[rows]), tuple(str(names[i]) for i in classes)


def stratified_folds(labels: Sequence[np.ndarray], folds: int, seed: int) -> Int[np.ndarray, " n"]:
    """Fold numbers ``[n]`` in which every label's classes are spread as evenly as can be.

    The label with most classes is spread exactly (within one image a class). Its classes are dealt out in
    the order of the class of every other label they mostly belong to, so that labels nested in it
    (alphabets of characters) come out even as well.
    """
    by_classes = sorted(labels, key=lambda values: -int(values.max()))
    finest = by_classes[0]
    random = np.random.default_rng(stream_seed(seed, "probe folds"))
    keys = [random.random(len(finest)), *reversed(by_classes[1:]), finest]
    for values in by_classes[1:]:
        keys.append(_mostly(finest, values)[finest])
    dealt = np.lexsort(keys)
    assigned = np.empty(len(finest), dtype=np.int64)
    assigned[dealt] = np.arange(len(finest)) % folds
    return assigned


def _mostly(fine: np.ndarray, coarse: np.ndarray) -> np.ndarray:
    """For every class of ``fine`` the class of ``coarse`` that most of its images have."""
    table = np.zeros((int(fine.max()) + 1, int(coarse.max()) + 1), dtype=np.int64)
    np.add.at(table, (fine, coarse), 1)
    return table.argmax(1)


def control_labels(
    task: Task, tasks: Sequence[Task], n: int, seed: int
) -> tuple[Int[np.ndarray, "n_controls n"], str]:
    """Random labels with the structure of the task's, ``[n, images]``, and what was drawn.

    Where another label's classes (the types) each belong to one class of this task, as characters belong
    to alphabets, the types are given classes at random, so that a probe can score by memorising types
    (Hewitt and Liang 2019, arXiv:1909.03368). Otherwise every image gets another image's label.
    """
    random = np.random.default_rng(stream_seed(seed, f"controls {task.name}"))
    types = _types_of(task, tasks)
    if types is None:
        return permuted(task.values, n, seed, f"controls {task.name}"), "images"
    of_type = _mostly(types.values, task.values)
    drawn = np.stack([random.permutation(of_type)[types.values] for _ in range(n)])
    return drawn, types.name


def _types_of(task: Task, tasks: Sequence[Task]) -> Task | None:
    """The coarsest other label that determines this one and has at least twice its classes."""
    for other in sorted(tasks, key=lambda one: len(one.classes)):
        if len(other.classes) < 2 * len(task.classes):
            continue
        if (_mostly(other.values, task.values)[other.values] == task.values).all():
            return other
    return None


def permuted(values: np.ndarray, n: int, seed: int, stream: str) -> Shaped[np.ndarray, "n_permutations n"]:
    """``n`` random permutations of the labels, the same for every layer, network and arm."""
    random = np.random.default_rng(stream_seed(seed, stream))
    return np.stack([random.permutation(values) for _ in range(n)]) if n else np.empty((0, len(values)), int)
