"""Random sets of components to compare a chosen one with: its null."""

from collections.abc import Mapping, Sequence

import numpy as np

Chosen = Mapping[str, Sequence[int]]
TRIES = 20  # a set
NEIGHBOURS = 10  # of each chosen component, nearest in mean importance


def random_sets(
    chosen: Chosen,
    importance: Mapping[str, np.ndarray],
    alive: Mapping[str, np.ndarray],
    n: int,
    null: str,
    rng: np.random.Generator,
) -> list[dict[str, list[int]]]:
    """At most ``n`` different sets with as many components of every site as ``chosen``, none of them chosen.

    Drawn from the components ``alive [C]``; ``matched``: in place of each chosen component one of the ten
    whose mean ``importance [C]`` is nearest on a log scale. Fewer, or none, where there are not enough.
    """
    pools = {site: _pool(chosen[site], alive[site]) for site in chosen}
    if any(len(pools[site]) < len(chosen[site]) for site in chosen):
        return []
    found: dict[tuple[tuple[int, ...], ...], dict[str, list[int]]] = {}
    for _ in range(TRIES * n):
        if len(found) == n:
            break
        one = {}
        for site, numbers in chosen.items():
            if null == "matched":
                one[site] = _matched(numbers, pools[site], importance[site], rng)
            else:
                one[site] = sorted(rng.choice(pools[site], len(numbers), replace=False).tolist())
        found.setdefault(tuple(map(tuple, one.values())), one)
    return list(found.values())


def _pool(chosen: Sequence[int], alive: np.ndarray) -> np.ndarray:
    free = alive.copy()
    free[list(chosen)] = False
    return np.flatnonzero(free)


def _matched(
    chosen: Sequence[int], pool: np.ndarray, importance: np.ndarray, rng: np.random.Generator
) -> list[int]:
    left, level = pool.tolist(), np.log(importance + 1e-12)
    taken = []
    for component in rng.permutation(np.asarray(chosen)):
        near = sorted(left, key=lambda other: abs(level[other] - level[component]))[:NEIGHBOURS]
        one = int(rng.choice(near))
        left.remove(one)
        taken.append(one)
    return sorted(taken)
