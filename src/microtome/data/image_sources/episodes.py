"""HDF5 files: episodes of the same-different studies, or plain arrays."""

import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from microtome.core.errors import CannotLoad, MicrotomeError
from microtome.data.image_sources.arrays import from_arrays
from microtome.data.image_sources.choosing import choose, encode, labelled, pick
from microtome.data.image_sources.pixels import as_pixels, resize
from microtome.data.labelled_images import LabelledImages

SUFFIXES = (".h5", ".hdf5")
FILE = re.compile(r"(?P<task>.+?)(?:_support(?P<shots>\d+))?_(?P<split>train|val|test)")
_PARTS = ("support", "query")


def open_hdf5(
    place: Path,
    task: str | None,
    split: str,
    size: int | None,
    channels: int | None,
    limit: int | None,
) -> LabelledImages:
    """A file, or the files ``{task}_support{4,6,8,10}_{split}.h5`` of a folder: every image of each episode.

    Labels ``same_different`` and, with several tasks, ``task``. Of a large file only the ``limit`` images
    chosen are read. Raises ``CannotLoad``; ``MicrotomeError`` when h5py is not installed.
    """
    h5py = _need_h5py(place)
    paths = [place] if place.is_file() else _files_of(place, task, split)
    files: list[Any] = []
    try:
        for path in paths:
            files.append(_open(h5py, path))
        if any("support_images" not in file for file in files):
            if len(files) > 1:
                raise CannotLoad(f"{place}: not all of its files hold episodes; name one file")
            return from_arrays(_all_arrays(files[0], paths[0]), split, size, channels, limit, str(place))
        return _episodes(files, paths, place, size, channels, limit)
    finally:
        for file in files:
            file.close()


def _episodes(
    files: Sequence[Any],
    paths: Sequence[Path],
    place: Path,
    size: int | None,
    channels: int | None,
    limit: int | None,
) -> LabelledImages:
    """Images in order of file, episode, support before query."""
    places: list[tuple[int, str, int, int]] = []  # file, part, episode, position
    values: list[float] = []
    for f, file in enumerate(files):
        for part in _PARTS:
            labels = _labels(file, part, paths[f])
            places += [(f, part, e, i) for e, i in np.ndindex(*labels.shape)]
            values += labels.ravel().tolist()
    order = sorted(
        range(len(places)),
        key=lambda k: (places[k][0], places[k][2], _PARTS.index(places[k][1]), places[k][3]),
    )
    same = encode([values[k] for k in order])
    tasks = encode([_task_of(paths[places[k][0]]) for k in order])
    rows = choose(same, limit)
    kept = [places[order[i]] for i in rows]
    images = []
    for f, part, e, i in kept:
        image = as_pixels(np.asarray(files[f][f"{part}_images"][e, i])[None], str(paths[f]))
        images.append(resize(image, size, channels))
    if len({image.shape for image in images}) > 1:
        raise CannotLoad(f"{place}: images of several sizes; give one for all with --image-size 128")
    names = [f"{paths[f].stem} episode {e} {part} {i}" for f, part, e, i in kept]
    labels = {"same_different": pick(same, rows)} | (
        {"task": pick(tasks, rows)} if len(tasks.names) > 1 else {}
    )
    return labelled(torch.cat(images), labels, names, str(place))


def _labels(file: Any, part: str, path: Path) -> np.ndarray:
    images, labels = file.get(f"{part}_images"), file.get(f"{part}_labels")
    if images is None or labels is None or images.ndim != 5:
        raise CannotLoad(
            f"{path}: {part}_images or {part}_labels is missing or of another shape; store [E, S, H, W, 3]"
            " images and [E, S] labels"
        )
    values = np.asarray(labels)
    if values.size != images.shape[0] * images.shape[1]:
        raise CannotLoad(f"{path}: {values.size} {part}_labels for {images.shape[:2]} images; one each")
    return values.reshape(images.shape[:2])


def _files_of(place: Path, task: str | None, split: str) -> list[Path]:
    matched = [
        (path, match)
        for path in sorted(place.iterdir() if place.is_dir() else [])
        if path.suffix in SUFFIXES and (match := FILE.fullmatch(path.stem))
    ]
    if not matched:
        raise CannotLoad(f"{place}: no TASK_supportN_{split}.h5 in it; give the folder of the episodes")
    of_split = [(path, match) for path, match in matched if match["split"] == split]
    if not of_split:
        there = ", ".join(sorted({match["split"] for _, match in matched}))
        raise CannotLoad(f"{place}: no {split} episodes; there are {there}: use --split")
    wanted = None if task is None else {name.strip() for name in task.split(",")}
    tasks = sorted({match["task"] for _, match in of_split})
    if wanted is not None and not wanted <= set(tasks):
        raise CannotLoad(f"{place}: no task {sorted(wanted - set(tasks))[0]!r}; there are {', '.join(tasks)}")
    return [path for path, match in of_split if wanted is None or match["task"] in wanted]


def _task_of(path: Path) -> str:
    match = FILE.fullmatch(path.stem)
    return match["task"] if match else path.stem


def _open(h5py: Any, path: Path) -> Any:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        line = str(error).splitlines()[0][:120]
        raise CannotLoad(f"{path}: missing, truncated or not an HDF5 file ({line})") from None


def _all_arrays(file: Any, path: Path) -> dict[str, np.ndarray]:
    arrays = {name: item for name, item in file.items() if hasattr(item, "shape")}
    if not arrays:
        raise CannotLoad(f"{path}: no arrays on top of it; store images and labels")
    return {name: np.asarray(item) for name, item in arrays.items()}


def _need_h5py(place: Path) -> Any:
    try:
        return importlib.import_module("h5py")
    except ImportError as error:
        raise MicrotomeError(f"{place}: needs h5py ({error}); pip install 'microtome[hdf5]'") from None
