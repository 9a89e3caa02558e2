"""How far apart clusterings of the same components are."""

import numpy as np
from jaxtyping import Float, Int


def pair_distance(a: Int[np.ndarray, " C"], b: Int[np.ndarray, " C"]) -> int:
    """Pairs of components that one clustering puts together and the other apart (Mirkin's distance).

    The matching distance of SPD's authors' clustering code.
    """
    _, a = np.unique(a, return_inverse=True)
    _, b = np.unique(b, return_inverse=True)
    joint = np.bincount(a * (int(b.max(initial=0)) + 1) + b)
    return int(_pairs(np.bincount(a)) + _pairs(np.bincount(b)) - 2 * _pairs(joint))


def _pairs(sizes: np.ndarray) -> int:
    return int((sizes * (sizes - 1) // 2).sum())


def distances(labels: Int[np.ndarray, "R C"]) -> dict[str, Float[np.ndarray, "R R"]]:
    """Between every two of R clusterings: ``pairs`` (see ``pair_distance``), and the adjusted Rand index
    ``adjusted_rand`` and ``adjusted_mutual_information``, both 1 for the same clustering, 0 as by chance."""
    from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score

    measures = {
        "pairs": pair_distance,
        "adjusted_rand": adjusted_rand_score,
        "adjusted_mutual_information": adjusted_mutual_info_score,
    }
    found = {}
    for name, measure in measures.items():
        values = np.full((len(labels), len(labels)), 0.0 if name == "pairs" else 1.0)
        for i, one in enumerate(labels):
            for j in range(i):
                values[i, j] = values[j, i] = float(measure(one, labels[j]))
        found[name] = values
    return found
