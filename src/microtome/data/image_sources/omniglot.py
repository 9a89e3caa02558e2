"""Omniglot: handwritten characters of many alphabets, out of the published zip files."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from microtome.core.errors import CannotLoad
from microtome.data.image_sources.choosing import choose, encode, labelled, pick
from microtome.data.image_sources.files import Files
from microtome.data.image_sources.pixels import decode
from microtome.data.labelled_images import LabelledImages

DRAWING = re.compile(r"(?:.*/)?(?P<alphabet>[^/]+)/(?P<character>character\d+)/(?P<file>[^/]+\.png)")


@dataclass(frozen=True)
class _Drawing:
    files: Files
    name: str
    alphabet: str
    character: str

    @property
    def key(self) -> tuple[str, str, str]:
        return self.alphabet, self.character, self.name.rsplit("/", 1)[-1]


def open_omniglot(
    place: Path, alphabets: str | None, size: int | None, channels: int | None, limit: int | None
) -> LabelledImages:
    """Labels ``character`` and ``alphabet``; strokes bright on black, as few-shot studies turn them.

    ``place`` is a zip file, a folder of zip files or an unpacked folder. A drawing that two archives hold
    counts once. ``alphabets`` is a list with commas; all when None. Raises ``CannotLoad``.
    """
    drawings = _all_drawings(place)
    chosen = _of_alphabets(drawings, alphabets, place)
    characters = encode([f"{drawing.alphabet}/{drawing.character}" for drawing in chosen])
    rows = choose(characters, limit)
    kept = [chosen[i] for i in rows]
    parts: dict[Files, list[int]] = {}
    for i, drawing in enumerate(kept):
        parts.setdefault(drawing.files, []).append(i)
    pixels = None
    for files, where in parts.items():
        some = decode(files, [kept[i].name for i in where], size, channels)
        if pixels is None:
            pixels = some.new_empty((len(kept), *some.shape[1:]))
        if some.shape[1:] != pixels.shape[1:]:
            raise CannotLoad(f"{place}: images of several sizes; give one for all with --image-size 28")
        pixels[np.array(where)] = 255 - some
    assert pixels is not None
    labels = {"character": characters, "alphabet": encode([drawing.alphabet for drawing in chosen])}
    names = ["/".join(drawing.key) for drawing in kept]
    return labelled(pixels, {key: pick(label, rows) for key, label in labels.items()}, names, str(place))


def _all_drawings(place: Path) -> list[_Drawing]:
    zips = sorted(place.glob("*.zip")) if place.is_dir() else []
    found: dict[tuple[str, str, str], _Drawing] = {}
    for files in [Files(path) for path in zips] or [Files(place)]:
        for name in files.names:
            match = DRAWING.fullmatch(name)
            if match:
                drawing = _Drawing(files, name, match["alphabet"], match["character"])
                found.setdefault(drawing.key, drawing)
    if not found:
        raise CannotLoad(
            f"{place}: no ALPHABET/character01/*.png in it; give Omniglot's zip files or their folder"
        )
    return [found[key] for key in sorted(found)]


def _of_alphabets(drawings: list[_Drawing], alphabets: str | None, place: Path) -> list[_Drawing]:
    if alphabets is None:
        return drawings
    there = sorted({drawing.alphabet for drawing in drawings})
    wanted = [name.strip() for name in alphabets.split(",") if name.strip()]
    by_plain = {_plain(name): name for name in there}
    unknown = [name for name in wanted if _plain(name) not in by_plain]
    if unknown or not wanted:
        raise CannotLoad(
            f"{place}: no alphabet {unknown[0] if unknown else alphabets!r}; there are {', '.join(there)}"
        )
    kept = {by_plain[_plain(name)] for name in wanted}
    return [drawing for drawing in drawings if drawing.alphabet in kept]


def _plain(name: str) -> str:
    """One spelling for ``Early Aramaic`` and ``Early_Aramaic``, ``katakana`` and ``Japanese_(katakana)``."""
    inner = re.search(r"\(([^)]+)\)", name)
    return re.sub(r"[\s_-]", "", inner[1] if inner else name).lower()
