"""Images of the Synthetic Visual Reasoning Test as its generator lays them out."""

import re

from microtome.core.device import say
from microtome.core.errors import CannotLoad
from microtome.data.image_sources.choosing import choose, encode, in_order, labelled, pick
from microtome.data.image_sources.files import Files
from microtome.data.image_sources.folder import SAMPLE, split_of
from microtome.data.image_sources.pixels import decode
from microtome.data.labelled_images import LabelledImages

FOLDER = re.compile(r"results_problem_([^_/]+)(_.*)?")


def open_svrt(
    files: Files,
    problem: int | str | None,
    split: str,
    size: int | None,
    channels: int | None,
    limit: int | None,
) -> LabelledImages:
    """Label ``same_different``, out of ``results_problem_{n}_*/{split}/sample_{label}_{i}.png``.

    Of several folders of one problem the first in order of names is taken. Raises ``CannotLoad`` listing the
    problems that are there when ``problem`` is not among them.
    """
    files = split_of(_problem_folder(files, problem), split)
    matched = [(name, match[1]) for name in files.images if (match := SAMPLE.fullmatch(name))]
    if not matched:
        raise CannotLoad(f"{files}: holds no sample_LABEL_NUMBER.png; give the folder the generator wrote")
    labels = encode([label for _, label in matched])
    rows = choose(labels, limit if len(labels.names) > 1 else 1)
    names = [matched[i][0] for i in rows]
    pixels = decode(files, names, size, channels)
    return labelled(pixels, {"same_different": pick(labels, rows)}, names, str(files))


def _problem_folder(files: Files, problem: int | str | None) -> Files:
    """The folder of the problem; ``files`` itself when it is the folder of one already."""
    own = FOLDER.fullmatch(files.place.name if not files.inside else files.inside.rsplit("/", 1)[-1])
    found = [(match[1], name) for name in files.folders if (match := FOLDER.fullmatch(name))]
    if not found:
        if own is None and problem is not None:
            raise CannotLoad(f"{files}: no folder results_problem_{problem}_*; give the one above those")
        if own is not None and problem is not None and own[1] != str(problem):
            raise CannotLoad(f"{files}: the folder of problem {own[1]}, not {problem}; give the one above")
        return files
    numbers = sorted({number for number, _ in found}, key=in_order)
    listed = ", ".join(numbers)
    if problem is None and len(numbers) > 1:
        raise CannotLoad(f"{files}: which problem? there are {listed}; choose one with --problem-number")
    wanted = numbers[0] if problem is None else str(problem)
    folders = [name for number, name in found if number == wanted]
    if not folders:
        raise CannotLoad(f"{files}: no problem {wanted}; there are {listed}: choose with --problem-number")
    if len(folders) > 1:
        say(f"{files}: {len(folders)} folders of problem {wanted}; taking {folders[0]}")
    return files.under(folders[0])
