"""Problems of the Synthetic Visual Reasoning Test, after their published descriptions.

Fleuret et al. 2011, "Comparing machines and humans on a visual categorization test", PNAS 108(43), numbers as
there. Written from what the problems are said to be, not from the original program: layouts, sizes and shapes
are ours, so that scores are not to be compared with those on the original images.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from microtome.data.same_different.contours import (
    Contour,
    contour,
    different_profiles,
    inside,
    mirrored,
    radial_profile,
    touching_distance,
    turned,
)
from microtome.data.same_different.placing import apart, on_a_line

Scene = list[Contour]  # curves in the unit square
Generator = np.random.Generator


@dataclass(frozen=True)
class Problem:
    """One problem: what class 1 and class 0 look like, in words, and how to make a scene of either."""

    number: int
    holds: str
    broken: str
    scene: Callable[[Generator, bool], Scene]


def _placed(curves: list[Contour], radii: list[float], centres: np.ndarray) -> Scene:
    return [radius * curve + centre for curve, radius, centre in zip(curves, radii, centres, strict=True)]


def _curves(rng: Generator, kinds: list[int]) -> list[Contour]:
    """One curve an entry: equal numbers are the same shape, different numbers different shapes."""
    profiles = different_profiles(rng, max(kinds) + 1)
    return [contour(profiles[kind]) for kind in kinds]


def _scattered(rng: Generator, kinds: list[int], radius: float) -> Scene:
    radii = [radius] * len(kinds)
    return _placed(_curves(rng, kinds), radii, apart(rng, radii))


def same_or_different(rng: Generator, holds: bool) -> Scene:
    """1: two shapes, the same or not."""
    return _scattered(rng, [0, 0] if holds else [0, 1], rng.uniform(0.14, 0.2))


def centre_or_border(rng: Generator, holds: bool) -> Scene:
    """2: a small shape in a large one, at its centre or by its border."""
    outer = radial_profile(rng)
    large = rng.uniform(0.38, 0.46)
    small = outer.min() * 0.33 * contour(radial_profile(rng))
    angle = rng.uniform(0, 2 * np.pi)
    reach = 0.0 if holds else _reach_inside(outer, angle, small)
    centre = apart(rng, [large], 0.01)[0]
    return [large * contour(outer) + centre, large * (small + reach * _towards(angle)) + centre]


def _towards(angle: float) -> np.ndarray:
    return np.array([np.cos(angle), np.sin(angle)])


def _reach_inside(outer: np.ndarray, angle: float, small: Contour) -> float:
    """How far a curve goes from the centre towards ``angle`` and stays inside ``outer``, a little off it."""
    radii = np.linalg.norm(small, axis=1, keepdims=True)
    wider = small * (1 + 0.25 * radii.max() / radii)
    reaches = np.linspace(0, 1, 41)
    fits = [bool(inside(wider + reach * _towards(angle), outer).all()) for reach in reaches]
    return float(reaches[max(fits.index(False) - 1, 0)])


def three_and_one(rng: Generator, holds: bool) -> Scene:
    """3: four shapes, three of them in contact and one apart, or two pairs in contact."""
    radius = rng.uniform(0.075, 0.095)
    groups = [_chain(rng, 3), _chain(rng, 1)] if holds else [_chain(rng, 2), _chain(rng, 2)]
    reaches = [radius * float(np.linalg.norm(np.concatenate(group), axis=1).max()) for group in groups]
    centres = apart(rng, reaches)
    return [radius * curve + centre for group, centre in zip(groups, centres, strict=True) for curve in group]


def _chain(rng: Generator, n: int) -> Scene:
    """Curves that touch one after the other, about their common centre; those not neighbours stay apart."""
    while True:
        profiles = different_profiles(rng, n)
        places = [np.zeros(2)]
        heading = rng.uniform(0, 2 * np.pi)
        for before, after in pairwise(profiles):
            heading += rng.uniform(-0.7, 0.7)
            distance = touching_distance(before, after, heading)
            places.append(places[-1] + distance * _towards(heading))
        curves = [contour(profile) + place for profile, place in zip(profiles, places, strict=True)]
        if n < 3 or not inside(curves[0] - places[2], profiles[2]).any():
            middle = (np.concatenate(curves).max(0) + np.concatenate(curves).min(0)) / 2
            return [curve - middle for curve in curves]


def inside_or_outside(rng: Generator, holds: bool) -> Scene:
    """4: a small shape inside a large one, or outside."""
    return _nested(rng, radial_profile(rng), radial_profile(rng), holds)


def _nested(rng: Generator, outer: np.ndarray, inner: np.ndarray, within: bool) -> Scene:
    """A small curve inside a large one, or beside it; sizes do not tell which."""
    large, share = rng.uniform(0.24, 0.3), outer.min() * rng.uniform(0.5, 0.75)
    small = share * contour(inner)
    if not within:
        radii = [large, large * share]
        return _placed([contour(outer), contour(inner)], radii, apart(rng, radii))
    centre = apart(rng, [large])[0]
    angle = rng.uniform(0, 2 * np.pi)
    reach = rng.uniform(0, 1) * _reach_inside(outer, angle, small)
    return [large * contour(outer) + centre, large * (small + reach * _towards(angle)) + centre]


def two_pairs(rng: Generator, holds: bool) -> Scene:
    """5: four shapes, two pairs of the same or all different."""
    return _scattered(rng, [0, 0, 1, 1] if holds else [0, 1, 2, 3], rng.uniform(0.11, 0.14))


def three_pairs(rng: Generator, holds: bool) -> Scene:
    """7: six shapes, three pairs of the same or two triples."""
    return _scattered(rng, [0, 0, 1, 1, 2, 2] if holds else [0, 0, 0, 1, 1, 1], rng.uniform(0.09, 0.115))


def same_inside(rng: Generator, holds: bool) -> Scene:
    """8: the same shape twice, the small one inside the large one; or another shape inside, or outside."""
    outer, other = different_profiles(rng, 2)
    if holds:
        return _nested(rng, outer, outer, True)
    return _nested(rng, outer, other, True) if rng.random() < 0.5 else _nested(rng, outer, outer, False)


def large_in_the_middle(rng: Generator, holds: bool) -> Scene:
    """9: three shapes in a row, the large one between the others or at an end."""
    small = rng.uniform(0.07, 0.09)
    large = small * rng.uniform(1.5, 1.75)
    radii = [small, large, small] if holds else [large, small, small]
    return _placed(_curves(rng, [0, 0, 0]), radii, on_a_line(rng, radii))


def in_contact(rng: Generator, holds: bool) -> Scene:
    """11: a large and a small shape that touch, or do not."""
    large, small = different_profiles(rng, 2)
    radius, share = rng.uniform(0.19, 0.23), rng.uniform(0.4, 0.5)
    heading = rng.uniform(0, 2 * np.pi)
    distance = touching_distance(large, share * small, heading)
    if not holds:
        distance += rng.uniform(0.25, 0.9)
    curves = [contour(large), share * contour(small) + distance * _towards(heading)]
    return _anywhere(rng, [radius * curve for curve in curves])


def _anywhere(rng: Generator, curves: Scene) -> Scene:
    """The curves moved together to a random place in the unit square, made smaller when they do not fit."""
    points = np.concatenate(curves)
    low, extent = points.min(0), np.ptp(points, axis=0)
    scale = min(1.0, 0.95 / float(extent.max()))
    corner = 0.02 + rng.uniform(0, 1, 2) * (0.96 - scale * extent)
    return [(curve - low) * scale + corner for curve in curves]


def aligned(rng: Generator, holds: bool) -> Scene:
    """14: three shapes the same, in a row or not."""
    radius = rng.uniform(0.07, 0.1)
    radii = [radius] * 3
    centres = on_a_line(rng, radii) if holds else _not_in_line(rng, radii)
    return _placed(_curves(rng, [0, 0, 0]), radii, centres)


def _not_in_line(rng: Generator, radii: list[float]) -> np.ndarray:
    while True:
        centres = apart(rng, radii)
        (ax, ay), (bx, by) = centres[1] - centres[0], centres[2] - centres[0]
        sides = [float(np.linalg.norm(centres[i] - centres[j])) for i, j in ((0, 1), (0, 2), (1, 2))]
        if abs(ax * by - ay * bx) / max(sides) > 0.1:  # the height of the triangle
            return centres


def four_on_a_square(rng: Generator, holds: bool) -> Scene:
    """15: four shapes at the corners of a square, all the same or all different."""
    radius = rng.uniform(0.1, 0.14)
    half = rng.uniform(1.1, 1.4) * radius
    corners = half * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    curves = _curves(rng, [0, 0, 0, 0] if holds else [0, 1, 2, 3])
    return _anywhere(rng, _placed(curves, [radius] * 4, corners))


def scaled(rng: Generator, holds: bool) -> Scene:
    """19: two shapes of two sizes, the same but for that or different."""
    large = rng.uniform(0.2, 0.25)
    radii = [large, large * rng.uniform(0.45, 0.65)]
    return _placed(_curves(rng, [0, 0] if holds else [0, 1]), radii, apart(rng, radii))


def mirror_image(rng: Generator, holds: bool) -> Scene:
    """20: two shapes, each the other's mirror image about the line halfway between them, or different."""
    first, second = _curves(rng, [0, 0] if holds else [0, 1])
    radii = [rng.uniform(0.14, 0.2)] * 2
    centres = apart(rng, radii)
    x, y = centres[1] - centres[0]
    return _placed([first, mirrored(second, np.arctan2(y, x) + np.pi / 2)], radii, centres)


def turned_and_scaled(rng: Generator, holds: bool) -> Scene:
    """21: two shapes, the same but for size and a turn, or different."""
    first, second = _curves(rng, [0, 0] if holds else [0, 1])
    large = rng.uniform(0.2, 0.24)
    radii = [large, large * rng.uniform(0.55, 0.9)]
    return _placed([first, turned(second, rng.uniform(0, 2 * np.pi))], radii, apart(rng, radii))


def row_of_three(rng: Generator, holds: bool) -> Scene:
    """22: three shapes in a row, all the same or all different."""
    radii = [rng.uniform(0.09, 0.12)] * 3
    return _placed(_curves(rng, [0, 0, 0] if holds else [0, 1, 2]), radii, on_a_line(rng, radii))


def same_side(rng: Generator, holds: bool) -> Scene:
    """23: two small shapes on the same side of a large one's line, both inside or both outside, or not."""
    outer = radial_profile(rng)
    large = rng.uniform(0.27, 0.31)
    share = outer.min() * 0.36
    within = (2 if rng.random() < 0.5 else 0) if holds else 1
    radii = [large] + [large * share] * (2 - within)
    centres = apart(rng, radii)
    scene = _placed([contour(outer)] + [contour(radial_profile(rng)) for _ in radii[1:]], radii, centres)
    angle = rng.uniform(0, 2 * np.pi)
    for k in range(within):  # opposite each other, so that two have room
        towards, curve = angle + k * np.pi, share * contour(radial_profile(rng))
        room = _reach_inside(outer, towards, curve)
        reach = max(rng.uniform(0.6, 1) * room, min(room, share * 1.3))
        scene.append(large * (curve + reach * _towards(towards)) + centres[0])
    return scene


PROBLEMS: dict[int, Problem] = {
    problem.number: problem
    for problem in (
        Problem(1, "the same shape twice", "two different shapes", same_or_different),
        Problem(2, "small shape at the centre", "small shape by the border", centre_or_border),
        Problem(3, "three in contact, one apart", "two pairs in contact", three_and_one),
        Problem(4, "one inside the other", "one outside the other", inside_or_outside),
        Problem(5, "two pairs of the same", "four different shapes", two_pairs),
        Problem(7, "three pairs of the same", "two triples of the same", three_pairs),
        Problem(8, "the same shape, one inside", "not the same, or not inside", same_inside),
        Problem(9, "the large one between", "the large one at an end", large_in_the_middle),
        Problem(11, "in contact", "not in contact", in_contact),
        Problem(14, "three in a row", "three not in a row", aligned),
        Problem(15, "square of the same shape", "square of different shapes", four_on_a_square),
        Problem(19, "the same but for size", "different shapes, two sizes", scaled),
        Problem(20, "mirror images", "no mirror images", mirror_image),
        Problem(21, "the same but turned, scaled", "different shapes", turned_and_scaled),
        Problem(22, "row of the same shape", "row of different shapes", row_of_three),
        Problem(23, "both inside or both outside", "one inside, one outside", same_side),
    )
}
