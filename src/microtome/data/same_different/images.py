"""Labelled images of same-different problems."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import UInt8

from microtome.core.errors import bad_value
from microtome.core.seeds import stream_seed
from microtome.data.labelled_images import LabelledImages, Labels
from microtome.data.same_different.problems import PROBLEMS, Scene

SHARPER = 2  # drawn this many times as large, then averaged: smooth lines
LINE = 0.011  # of the image's side


def same_different_images(
    problems: Sequence[int] = (1,),
    n: int = 200,
    *,
    size: int = 128,
    channels: int = 3,
    seed: int = 0,
    split: str = "train",
) -> LabelledImages:
    """``n`` images of each problem, black outlines on white, ``[n * problems, channels, size, size]``.

    Labels ``same_different`` (1: the problem's relation holds) and ``problem``; the two classes alternate.
    Image i of a problem and ``split`` depends on ``seed`` alone, not on how many are made. Raises
    ``MicrotomeError`` for a problem that is not among ``PROBLEMS``.
    """
    for number in problems:
        if number not in PROBLEMS:
            known = ", ".join(map(str, PROBLEMS))
            raise bad_value("problem", number, "no generator for it", f"choose from {known}")
    if n < 2:
        raise bad_value("n", n, "too few images for two classes", "make 2 or more")
    drawn = np.stack([image(number, i, size, seed, split) for number in problems for i in range(n)])
    pixels = torch.as_tensor(drawn)[:, None].expand(-1, channels, -1, -1).contiguous()
    holds = np.tile(np.arange(n) % 2, len(problems))
    which = np.repeat(np.arange(len(problems)), n)
    return LabelledImages(
        pixels,
        {
            "same_different": Labels(holds, ("0", "1")),
            "problem": Labels(which, tuple(map(str, problems))),
        },
        tuple(f"problem {number} {split} {i}" for number in problems for i in range(n)),
        f"same-different#{','.join(map(str, problems))}",
    )


def image(
    problem: int, index: int, size: int = 128, seed: int = 0, split: str = "train"
) -> UInt8[np.ndarray, "s s"]:
    """Image ``index`` of a problem: odd ones are of class 1."""
    rng = np.random.default_rng(stream_seed(seed, f"same-different/{problem}/{split}/{index}"))
    return draw(PROBLEMS[problem].scene(rng, index % 2 == 1), size)


def draw(scene: Scene, size: int) -> UInt8[np.ndarray, "s s"]:
    """The curves of a scene as dark lines on white, 0 to 255."""
    from PIL import Image, ImageDraw

    side = size * SHARPER
    canvas = Image.new("L", (side, side), 255)
    pen = ImageDraw.Draw(canvas)
    width = max(SHARPER, round(LINE * side))
    for curve in scene:
        points = (curve * side).ravel().tolist()
        pen.line([*points, *points[:4]], fill=0, width=width, joint="curve")
    return np.asarray(canvas.reduce(SHARPER))
