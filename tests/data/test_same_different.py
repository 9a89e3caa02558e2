"""Scenes are checked by what they show, with matplotlib's polygons, not with the code that made them."""

import numpy as np
import pytest
import torch
from matplotlib.path import Path as Polygon

from microtome.core.errors import MicrotomeError
from microtome.data.same_different import PROBLEMS, image, same_different_images
from microtome.data.same_different.contours import different_profiles, least_difference, radial_profile
from microtome.data.same_different.problems import Scene


def scenes(number: int, holds: bool, n: int = 12) -> list[Scene]:
    return [PROBLEMS[number].scene(np.random.default_rng(seed), holds) for seed in range(n)]


def middle(curve):
    return curve.mean(0)


def width(curve):
    return float(np.linalg.norm(curve - middle(curve), axis=1).max())


def holds_inside(outer, inner):
    return bool(Polygon(outer, closed=False).contains_points(inner).all())


def least_distance(a, b):
    return float(np.linalg.norm(a[:, None] - b[None], axis=2).min())


def likeness(a, b, *, turn=False, scale=False):
    """Least root mean square between corresponding points, by complex least squares over cyclic shifts."""
    best = np.inf
    za = (a - middle(a)) @ [1, 1j]
    zb = (b - middle(b)) @ [1, 1j]
    for shift in range(len(zb)) if turn else (0,):
        other = np.roll(zb, shift)
        factor = np.vdot(other, za) / np.vdot(other, other)
        if not scale:
            factor /= abs(factor)
        if not turn:
            factor = abs(factor)
        best = min(best, float(np.sqrt(np.mean(np.abs(za - factor * other) ** 2)) / width(a)))
    return best


def same(a, b, **how):
    return likeness(a, b, **how) < 1e-6


def grouped(curves):
    """Sizes of the groups of equal shapes, largest first."""
    groups: list[list] = []
    for curve in curves:
        for group in groups:
            if same(group[0], curve):
                group.append(curve)
                break
        else:
            groups.append([curve])
    return sorted(map(len, groups), reverse=True)


def touching_groups(curves, near=0.012):
    """Sizes of the groups that hang together."""
    left, sizes = list(range(len(curves))), []
    while left:
        reached, todo = set(), [left[0]]
        while todo:
            i = todo.pop()
            reached.add(i)
            todo += [j for j in left if j not in reached and least_distance(curves[i], curves[j]) < near]
        left = [i for i in left if i not in reached]
        sizes.append(len(reached))
    return sorted(sizes, reverse=True)


def straightness(curves):
    """Second singular value of the centres over the first: 0 on a line."""
    centres = np.array([(curve.max(0) + curve.min(0)) / 2 for curve in curves])
    values = np.linalg.svd(centres - centres.mean(0), compute_uv=False)
    return values[1] / values[0]


def by_size(curves):
    return sorted(curves, key=width, reverse=True)


def mirrored_halfway(a, b):
    """Whether ``b`` is ``a`` seen in the mirror that stands halfway between them."""
    across = (middle(b) - middle(a)) / np.linalg.norm(middle(b) - middle(a))
    seen = a - 2 * ((a - (middle(a) + middle(b)) / 2) @ across)[:, None] * across
    return bool(np.abs(seen - b).max() < 1e-9)


CHECKS = {
    1: lambda s: same(*s),
    2: lambda s: least_distance(*s) > 0.07,
    3: lambda s: touching_groups(s) == [3, 1],
    4: lambda s: holds_inside(*by_size(s)),
    5: lambda s: grouped(s) == [2, 2],
    7: lambda s: grouped(s) == [2, 2, 2],
    8: lambda s: holds_inside(*by_size(s)) and same(*by_size(s), scale=True),
    9: lambda s: int(np.argmax([width(c) for c in s])) == 1,
    11: lambda s: least_distance(*s) < 0.012,
    14: lambda s: straightness(s) < 0.1,
    15: lambda s: grouped(s) == [4],
    19: lambda s: same(*s, scale=True),
    20: lambda s: mirrored_halfway(*s),
    21: lambda s: same(*s, turn=True, scale=True),
    22: lambda s: grouped(s) == [3],
    23: lambda s: sum(holds_inside(by_size(s)[0], c) for c in by_size(s)[1:]) != 1,
}  # fmt: skip
BROKEN = {
    3: lambda s: touching_groups(s) == [2, 2],
    5: lambda s: grouped(s) == [1, 1, 1, 1],
    7: lambda s: grouped(s) == [3, 3],
    9: lambda s: int(np.argmax([width(c) for c in s])) != 1 and straightness(s) < 0.35,
    15: lambda s: grouped(s) == [1, 1, 1, 1],
    22: lambda s: grouped(s) == [1, 1, 1] and straightness(s) < 0.35,
}


def test_at_least_ten_of_the_published_problems():
    assert len(PROBLEMS) >= 10 and set(PROBLEMS) <= set(range(1, 24)) and set(CHECKS) == set(PROBLEMS)


@pytest.mark.parametrize("number", PROBLEMS)
def test_the_relation_holds_in_class_1_and_not_in_class_0(number):
    for scene in scenes(number, True):
        assert CHECKS[number](scene)
    for scene in scenes(number, False):
        assert not CHECKS[number](scene)
        assert BROKEN.get(number, lambda _: True)(scene)


@pytest.mark.parametrize("number", PROBLEMS)
def test_shapes_stay_in_the_image_and_cross_only_where_they_touch(number):
    for holds in (False, True):
        for scene in scenes(number, holds, 6):
            points = np.concatenate(scene)
            assert points.min() >= 0 and points.max() <= 1
            for i, a in enumerate(scene):
                for b in scene[i + 1 :]:
                    inside = Polygon(a, closed=False).contains_points(b)
                    assert inside.all() or not inside.any()


def test_different_shapes_look_different_however_turned_or_mirrored():
    rng = np.random.default_rng(0)
    a = radial_profile(rng)
    for other in (np.roll(a, 17), np.roll(a[::-1], 5)):
        assert least_difference(a, other) < 1e-6
    for first, second in zip(*[iter(different_profiles(rng, 6))] * 2, strict=True):
        assert least_difference(first, second) > 0.1
        shifts = [np.roll(b, k) for b in (second, second[::-1]) for k in range(len(second))]
        slow = min(float(np.sqrt(np.mean((first - b) ** 2))) for b in shifts)
        assert least_difference(first, second) == pytest.approx(slow, abs=1e-9)


def test_images_depend_on_their_number_alone():
    few = same_different_images([1, 4], 4, size=32)
    many = same_different_images([4], 10, size=32, channels=1)
    assert few.pixels.shape == (8, 3, 32, 32) and few.pixels.dtype == torch.uint8
    torch.testing.assert_close(few.pixels[4:, :1], many.pixels[:4])
    assert few.labels["same_different"].values.tolist() == [0, 1, 0, 1] * 2
    assert few.labels["problem"].names == ("1", "4")
    assert few.labels["problem"].values.tolist() == [0] * 4 + [1] * 4
    assert not np.array_equal(image(1, 0, split="train"), image(1, 0, split="test"))
    assert not np.array_equal(image(1, 0, seed=0), image(1, 0, seed=1))


def test_lines_are_dark_on_white():
    for number in PROBLEMS:
        drawn = image(number, 1, 64)
        assert drawn.shape == (64, 64) and drawn.max() == 255 and drawn.min() < 60
        assert 0.7 < (drawn > 250).mean() < 0.98


def test_unknown_problems_are_listed():
    with pytest.raises(MicrotomeError, match=r"problem=6: no generator for it; choose from 1, 2, 3"):
        same_different_images([1, 6], 4)
    with pytest.raises(MicrotomeError, match="n=1"):
        same_different_images([1], 1)
