"""Pictures of toy models of superposition, from stored arrays."""

import numpy as np
from matplotlib.figure import Figure

from microtome.decomposition import plots
from microtome.decomposition.interpret.stored import LeftOut, Picture, Pictures, Stored, tms_only
from microtome.decomposition.picture_data import best_first, by_prefix, join_factors
from microtome.measures.recovery import cosine_similarities
from microtome.training.plots import cosine_similarity_distribution, polygon

# What the papers report for TMS (mean max cosine similarity, mean L2 ratio), by method and size.
PUBLISHED: dict[tuple[object, ...], dict[str, tuple[float, float]]] = {
    ("apd", 5, 2): {"APD paper": (0.998, 0.893)},
    ("apd", 40, 10): {"APD paper": (0.996, 0.935)},
    ("spd", 5, 2): {"SPD paper": (1.000, 0.993)},
    ("spd", 40, 10): {"SPD paper": (1.000, 1.010)},
}
MAX_DIAGRAM_PANELS = 10
MAX_HIDDEN_PANELS = 16
ALL_SEEDS = 4


def recovery(stored: Stored) -> Pictures:
    arrays = stored.arrays("recovery")
    targets = by_prefix(stored.arrays("weights"), "target")
    shape = next(iter(targets.values())).shape[1:] if targets else (arrays["cosine"].shape[1], 0)
    recovered = arrays.get("recovered")
    figure = plots.recovery_over_seeds(
        arrays["cosine"],
        arrays["ratio"],
        recovered=None if recovered is None else [int(n) for n in recovered],
        reference=PUBLISHED.get((stored.method, *shape)),
    )
    yield "recovery", figure


def _linear1(stored: Stored) -> tuple[np.ndarray, np.ndarray]:
    """The target ``[n, h]`` and the components ``[C, n, h]`` of the shown instance."""
    tms_only(stored)
    targets, left, right = stored.factors()
    return targets["linear1"], join_factors(left["linear1"], right["linear1"])


def _chosen(stored: Stored, parts: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, list[str], str]:
    threshold = stored.config.size_threshold
    return best_first(parts, MAX_DIAGRAM_PANELS, like=target, threshold=threshold)


def tms_combined_diagram(stored: Stored) -> Pictures:
    tms_only(stored)
    if stored.instance:
        yield "tms_combined_diagram", _diagram(stored, stored.instance)
        return
    for k in range(min(stored.n_instances, ALL_SEEDS)):
        yield "tms_combined_diagram" if k == 0 else f"tms_combined_diagram_{k}", _diagram(stored, k)


def _diagram(stored: Stored, k: int) -> Figure:
    weights = {p: by_prefix(stored.arrays("weights"), p) for p in ("target", "left", "right")}
    targets, left, right = weights.values()
    target = targets["linear1"][k]
    parts = join_factors(left["linear1"][k], right["linear1"][k])
    if not plots.can_draw_diagram(*target.shape):
        raise LeftOut(
            f"{target.shape[0]} features in {target.shape[1]} dimensions are too many for a diagram"
        )
    order, names, left_out = _chosen(stored, parts, target)
    return plots.tms_combined_diagram(
        target,
        parts.sum(axis=0),
        parts[order],
        names=[f"Component {name}" for name in names],
        hidden=_hidden_panels(targets, left, right, k, len(order)),
        left_out=left_out,
    )


def _hidden_panels(
    targets: dict[str, np.ndarray],
    left: dict[str, np.ndarray],
    right: dict[str, np.ndarray],
    k: int,
    n_components: int,
) -> list[list[np.ndarray]]:
    """Hidden-layer matrices of each panel: the target's, the sum's, and none in a component of linear1."""
    layers = [site for site in targets if site.startswith("hidden_layers.")]
    if not layers:
        return []
    whole = [targets[site][k] for site in layers]
    total = [join_factors(left[site][k], right[site][k]).sum(axis=0) for site in layers]
    return [whole, total, *[[np.zeros_like(w) for w in whole]] * n_components]


def tms_vectors(stored: Stored) -> Pictures:
    target, parts = _linear1(stored)
    if target.shape[1] != 2:
        raise LeftOut(f"features have {target.shape[1]} dimensions, not 2")
    order, names, left_out = _chosen(stored, parts, target)
    titles = ["Target model", "Sum of components", *[f"Component {name}" for name in names]]
    yield (
        "tms_vectors",
        plots.tms_vectors([target, parts.sum(axis=0), *parts[order]], titles, left_out=left_out),
    )


def tms_full_network(stored: Stored) -> Pictures:
    target, parts = _linear1(stored)
    targets, left, right = stored.factors()
    if not plots.can_draw_diagram(max(target.shape), max(target.shape)):
        raise LeftOut(f"{target.shape[0]} features are too many for a network diagram")
    hidden = [site for site in targets if site.startswith("hidden_layers.")]
    every = {site: join_factors(left[site], right[site]) for site in hidden}
    order, names, left_out = _chosen(stored, parts, target)
    zeros = [np.zeros_like(targets[site]) for site in hidden]
    none = np.zeros_like(target)
    stacks = [
        [target, *[targets[site] for site in hidden], target.T],
        [parts.sum(axis=0), *[every[site].sum(axis=0) for site in hidden], parts.sum(axis=0).T],
        *[[parts[c], *zeros, parts[c].T] for c in order],
    ]
    titles = ["Target model", "Sum of components", *[f"Component {name}" for name in names]]
    for index, site in enumerate(hidden):
        chosen, found, _ = best_first(every[site], MAX_DIAGRAM_PANELS, threshold=stored.config.size_threshold)
        for c, name in zip(chosen, found, strict=True):
            inner = [every[site][c] if i == index else zeros[i] for i in range(len(hidden))]
            stacks.append([none, *inner, none.T])
            titles.append(f"Hidden {index + 1}: {name}")
    yield "tms_full_network", plots.tms_full_network(stacks, titles, left_out=left_out)


def tms_hidden_layers(stored: Stored) -> Pictures:
    tms_only(stored)
    targets, left, right = stored.factors()
    hidden = [site for site in targets if site.startswith("hidden_layers.")]
    if not hidden:
        raise LeftOut("the target has no hidden layers")
    for index, site in enumerate(hidden):
        parts = join_factors(left[site], right[site])
        order, names, left_out = best_first(parts, MAX_HIDDEN_PANELS, threshold=stored.config.size_threshold)
        titles = ["Target model", "Sum of components", *[f"Component {name}" for name in names]]
        figure = plots.tms_hidden_layers(
            [targets[site], parts.sum(axis=0), *parts[order]], titles, site=site, left_out=left_out
        )
        yield "tms_hidden_layers" if index == 0 else f"tms_hidden_layers_{index}", figure


def cosine_similarity_analysis(stored: Stored) -> Pictures:
    tms_only(stored)
    found = stored.arrays("recovery")
    weights = {p: by_prefix(stored.arrays("weights"), p)["linear1"] for p in ("target", "left", "right")}
    target = weights["target"]
    parts = np.stack([join_factors(*pair) for pair in zip(weights["left"], weights["right"], strict=True)])
    largest = np.linalg.norm(target, axis=-1).max(axis=-1)
    closest = np.stack([
        np.nan_to_num(cosine_similarities(part, whole), nan=-1.0).max(axis=1)
        for part, whole in zip(parts, target, strict=True)
    ])  # fmt: skip
    norms = np.sqrt(np.square(parts).sum(axis=(2, 3))) / np.maximum(largest, 1e-12)[:, None]
    figure = plots.cosine_similarity_analysis(norms, closest, found["cosine"], found["ratio"])
    yield "cosine_similarity_analysis", figure


def target_polygon(stored: Stored) -> Pictures:
    tms_only(stored)
    weights = by_prefix(stored.arrays("weights"), "target")["linear1"]
    if weights.shape[-1] != 2:
        raise LeftOut(f"features have {weights.shape[-1]} dimensions, not 2")
    longest = max(float(np.abs(weights).max()), 1e-6)
    yield "polygon", polygon(weights, limit=1.35 * longest)


def target_cosines(stored: Stored) -> Pictures:
    tms_only(stored)
    weights = by_prefix(stored.arrays("weights"), "target")["linear1"]
    directions = weights / np.maximum(np.linalg.norm(weights, axis=-1, keepdims=True), 1e-12)
    yield (
        "cosine_similarity_distribution",
        cosine_similarity_distribution(directions @ directions.swapaxes(1, 2)),
    )


def tms_mse(stored: Stored) -> Pictures:
    arrays = stored.arrays("label_errors")
    errors = {name: arrays[name] for name in ("target", "decomposition", "monosemantic")}
    words = "SPD, masked by causal importance" if stored.method == "spd" else "APD, top-k"
    kinds = [str(kind) for kind in arrays["kinds"]]
    name = "tms_mse" if stored.kind == "tms" else "resid_mlp_mse"
    yield name, plots.label_errors(errors, kinds, decomposition=words)


def feature_representation_analysis(stored: Stored) -> Pictures:
    arrays = stored.arrays("representation")
    outputs = {name: arrays[name][stored.instance] for name in ("target", "decomposition", "all_components")}
    figure = plots.feature_representation_analysis(outputs, float(arrays["value"]))
    yield "feature_representation_analysis", figure


PICTURES = (
    Picture("recovery", "Does a component point along each feature's weights, and is it as long?",
            ("recovery",), recovery),
    Picture("tms_combined_diagram", "Is there one component a feature, in the plane and as a network?",
            ("weights",), tms_combined_diagram),
    Picture("cosine_similarity_analysis", "How well do directions and lengths of components match features?",
            ("weights", "recovery"), cosine_similarity_analysis),
    Picture("tms_vectors", "Where do the components point?", ("weights",), tms_vectors, basic=False),
    Picture("tms_full_network", "Which layers does each component touch?",
            ("weights",), tms_full_network, basic=False),
    Picture("tms_hidden_layers", "How is a hidden layer split into components?",
            ("weights",), tms_hidden_layers, basic=False),
    Picture("polygon", "How does the target itself arrange its features?",
            ("weights",), target_polygon, basic=False),
    Picture("cosine_similarity_distribution", "How much do the target's features interfere?",
            ("weights",), target_cosines, basic=False),
    Picture("tms_mse", "Does the decomposition compute as well as the target, however many features are on?",
            ("label_errors",), tms_mse, basic=False),
    Picture("feature_representation_analysis", "Does every feature come through, and in the components too?",
            ("representation",), feature_representation_analysis, basic=False),
)  # fmt: skip
