"""One function that opens images from anywhere."""

import re
from collections.abc import Callable
from pathlib import Path

import torch

from microtome.core.config_keys import nearest
from microtome.core.errors import CannotLoad, bad_value
from microtome.data.image_sources.arrays import open_npz
from microtome.data.image_sources.choosing import choose, encode, labelled, pick
from microtome.data.image_sources.episodes import SUFFIXES as HDF5_SUFFIXES
from microtome.data.image_sources.episodes import open_hdf5
from microtome.data.image_sources.files import Files
from microtome.data.image_sources.folder import SPLITS, open_folder
from microtome.data.image_sources.idx import open_idx
from microtome.data.image_sources.omniglot import DRAWING, open_omniglot
from microtome.data.image_sources.pixels import check_request, resize
from microtome.data.image_sources.svrt import FOLDER, open_svrt
from microtome.data.images import digits
from microtome.data.labelled_images import LabelledImages

KINDS = ("digits", "same-different", "svrt", "folder", "npz", "idx", "hdf5", "omniglot")
FORMS = (
    "digits, same-different#1, svrt:DIR#1, folder:DIR, omniglot:DIR#Greek,Latin, idx:DIR,"
    " or the path of a folder, .npz, .h5, .zip or idx file"
)
SPLIT_NAMES = {name for names in SPLITS.values() for name in names}
GENERATED = 200  # images of a generated problem, unless a limit is given


def open_images(
    source: str,
    *,
    problem: int | str | None = None,
    split: str = "test",
    size: int | None = None,
    channels: int | None = None,
    limit: int | None = None,
) -> LabelledImages:
    """The images of ``source``, in an order that does not depend on the file system.

    ``digits``; ``same-different#7``; ``svrt:DIR#7``; ``folder:DIR``; ``omniglot:DIR#Greek,Latin``; an
    ``.npz``, idx, ``.h5`` or ``.zip`` file; or a folder, looked into. What follows ``#`` may be given as
    ``problem``. ``split`` is taken where the source has one. Images are resized to ``size`` squared and
    turned to ``channels`` (1 or 3). ``limit`` takes that many, balanced over the classes of the first label.
    Raises ``MicrotomeError`` in one line.
    """
    check_request(size, channels)
    if limit is not None and limit < 2:
        raise bad_value("limit", limit, "too few images for two classes", "use 2 or more")
    kind, place, part = _read_source(str(source).strip(), problem)
    if kind == "digits":
        return _digits(split, size, channels, limit)
    if kind == "same-different":
        return _generated(part, split, size, channels, limit)
    path = Path(place).expanduser()
    kind = kind or _look(path)
    openers: dict[str, Callable[[], LabelledImages]] = {
        "svrt": lambda: open_svrt(_files(path), part, split, size, channels, limit),
        "folder": lambda: open_folder(_files(path), split, size, channels, limit),
        "npz": lambda: open_npz(path, split, size, channels, limit),
        "idx": lambda: open_idx(path, split, size, channels, limit),
        "hdf5": lambda: open_hdf5(path, part, split, size, channels, limit),
        "omniglot": lambda: open_omniglot(path, part, size, channels, limit),
    }
    return openers[kind]()


def _read_source(source: str, problem: int | str | None) -> tuple[str | None, str, str | None]:
    """Kind (None: to be looked for), place, and what is asked of it."""
    if not source:
        raise CannotLoad(f"no images given; give {FORMS}")
    given = None if problem is None else str(problem)
    if _exists(source):
        return None, source, given
    place, mark, part = source.rpartition("#")
    if not mark:
        place, part = source, ""
    kind, colon, rest = place.partition(":")
    part_or_problem = part or given
    if kind in ("digits", "same-different") and not rest:
        return kind, "", part_or_problem
    if colon and kind in KINDS:
        if not rest or not _exists(rest):
            raise CannotLoad(f"{rest or source}: no such folder or file; check the path of the images")
        return kind, rest, part_or_problem
    if mark and _exists(place):
        return None, place, part_or_problem
    near = nearest(kind, list(KINDS))
    hint = f"did you mean {near}? give" if near else "give"
    raise CannotLoad(f"{source}: no such folder or file; {hint} {FORMS}")


def _exists(path: str) -> bool:
    try:
        return Path(path).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False


def _look(path: Path) -> str:
    """What kind of source a folder or file is."""
    if path.is_file():
        if path.suffix == ".npz":
            return "npz"
        if path.suffix in HDF5_SUFFIXES:
            return "hdf5"
        if path.suffix == ".zip":
            return _look_into(path)
        if "idx" in path.name or path.suffix == ".gz":
            return "idx"
        raise CannotLoad(f"{path}: no kind of image file known here; give {FORMS}")
    names = sorted(entry.name for entry in path.iterdir())
    if any("idx3" in name for name in names):
        return "idx"
    if any(Path(name).suffix in HDF5_SUFFIXES for name in names):
        return "hdf5"
    if any(re.fullmatch(r"images_(background|evaluation).*", name) for name in names):
        return "omniglot"
    return _look_into(path)


def _files(path: Path) -> Files:
    """The files of a folder or archive, without folders that only wrap others."""
    return Files(path).unwrapped(lambda name: bool(FOLDER.fullmatch(name)) or name.lower() in SPLIT_NAMES)


def _look_into(path: Path) -> str:
    files = _files(path)
    if FOLDER.fullmatch(path.name) or any(FOLDER.fullmatch(name) for name in files.folders):
        return "svrt"
    drawn = files.names[:2000] if files.archive is not None or files.folders else ()
    return "omniglot" if any(DRAWING.fullmatch(f"{files.inside}/{name}") for name in drawn) else "folder"


def _digits(split: str, size: int | None, channels: int | None, limit: int | None) -> LabelledImages:
    if split not in ("train", "test", "all"):
        raise bad_value("split", split, "the digits have none of that name", "use train, test or all")
    halves = digits() if split == "all" else [digits().train if split == "train" else digits().test]
    x = torch.cat([half.x for half in halves])
    labels = encode([digit for half in halves if half.y is not None for digit in half.y.tolist()])
    rows = choose(labels, limit)
    pixels = (x[torch.from_numpy(rows)].reshape(-1, 1, 8, 8) * 255).round().to(torch.uint8)
    names = [f"digits {split} {i}" for i in rows]
    return labelled(resize(pixels, size, channels), {"digit": pick(labels, rows)}, names, f"digits ({split})")


def _generated(
    part: str | None, split: str, size: int | None, channels: int | None, limit: int | None
) -> LabelledImages:
    from microtome.data.same_different import PROBLEMS, same_different_images

    known = ", ".join(map(str, PROBLEMS))
    try:
        numbers = [int(number) for number in (part or "1").split(",")]
    except ValueError:
        raise bad_value("problem", part, "not a number", f"choose from {known}") from None
    n = GENERATED if limit is None else max(2, limit // len(numbers))
    made = same_different_images(numbers, n, size=size or 128, channels=channels or 3, split=split)
    return labelled(made.pixels, made.labels, made.names, made.source)
