"""Image folders, one folder a class, with or without ``train`` and ``test`` above them."""

import csv
import io
import re

from microtome.core.errors import CannotLoad
from microtome.data.image_sources.choosing import choose, encode, in_order, labelled, pick
from microtome.data.image_sources.files import Files
from microtome.data.image_sources.pixels import decode
from microtome.data.labelled_images import LabelledImages, Labels

# What the folders of a split may be called.
SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
TABLE = "labels.csv"
SAMPLE = re.compile(r"sample_([^_]+)_[^/]*")


def open_folder(
    files: Files, split: str, size: int | None, channels: int | None, limit: int | None
) -> LabelledImages:
    """Label ``class``: the folder that an image is in, or the L of ``sample_L_0001.png``.

    A ``labels.csv`` on top adds a label for each of its columns; its first column names the image. Raises
    ``CannotLoad``.
    """
    files = split_of(files, split)
    names = files.images
    if not names:
        raise CannotLoad(f"{files}: holds no images (.png, .jpg, ...); give a folder with one folder a class")
    if TABLE in files.names:
        names, labels = _tabled(files, names)
    else:
        labels = {"class": encode([_class_of(files, name) for name in names])}
    rows = choose(next(iter(labels.values())), limit)
    kept = [names[i] for i in rows]
    if all(len(label.names) < 2 for label in labels.values()):  # told before everything is decoded
        kept = kept[:1]
        rows = rows[:1]
    pixels = decode(files, kept, size, channels)
    return labelled(pixels, {key: pick(label, rows) for key, label in labels.items()}, kept, str(files))


def split_of(files: Files, split: str) -> Files:
    """The part of ``files`` that is this split, all of it when there are no splits. Raises ``CannotLoad``."""
    known = {name: kind for kind, names in SPLITS.items() for name in names}
    there = {known[name.lower()]: name for name in files.folders if name.lower() in known}
    if not there:
        return files
    wanted = known.get(split.lower(), split)
    if wanted not in there:
        raise CannotLoad(f"{files}: no {split} images; there are {', '.join(sorted(there))}: use --split")
    return files.under(there[wanted])


def _class_of(files: Files, name: str) -> str:
    if "/" in name:
        return name.split("/", 1)[0]
    match = SAMPLE.match(name)
    if match is None:
        raise CannotLoad(
            f"{files}: {name} is in no class's folder; put each class in a folder of its own, or name images"
            " sample_LABEL_0001.png"
        )
    return match[1]


def _tabled(files: Files, names: list[str]) -> tuple[list[str], dict[str, Labels]]:
    rows = list(csv.reader(io.StringIO(files.read(TABLE).decode("utf-8-sig", errors="replace"))))
    if len(rows) < 2 or len(rows[0]) < 2:
        raise CannotLoad(
            f"{files}/{TABLE}: needs a heading, a column of file names and one of labels or more"
        )
    heading, by_name = rows[0], {row[0]: row for row in rows[1:] if row}
    missing = [name for name in by_name if name not in set(names)]
    if missing:
        raise CannotLoad(f"{files}/{TABLE}: names {missing[0]}, which is not there; list files that are")
    if any(len(row) != len(heading) for row in by_name.values()):
        raise CannotLoad(f"{files}/{TABLE}: rows of other length than the heading; fill in every column")
    listed = sorted(by_name, key=lambda name: in_order(name)[2])
    columns = range(1, len(heading))
    return listed, {heading[i]: encode([by_name[name][i] for name in listed]) for i in columns}
