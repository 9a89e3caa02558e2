"""Draws every picture that a run folder's stored arrays allow, and nothing that would need the model again.

Read from ``results/`` (a file or key that is missing leaves its picture out; K seeds lead every array):

- ``weights.npz``: ``target/<site>`` [K, d_in, d_out], ``left/<site>`` [K, C, d_in, m],
  ``right/<site>`` [K, C, m, d_out].
- ``causal_importance.npz``: ``lower/<site>`` and ``upper/<site>`` [K, n, C] on inputs with one feature on;
  optionally ``frequency/<site>`` [K, C], ``histogram/<site>`` [K, bins] with ``histogram_edges`` [bins + 1].
- ``recovery.npz``: ``cosine`` and ``ratio`` [K, n]; optionally ``recovered`` [K].
- ``attributions.npz``: ``features`` [K, n, C] with one feature on; optionally ``batch`` [K, B, C],
  ``selected`` [K, B, C] and ``features_on`` [K, B].
- ``embedding.npz``: ``W_E`` [K, n, d_embed], ``W_U`` [K, d_embed, n] of a residual MLP.
- ``classes.npz``: ``importance/<site>`` [K, n_classes, C] and ``image_shape`` [2], for image classifiers.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from microtome.core.runs import RunFolder
from microtome.decomposition import plots
from microtome.decomposition.picture_data import (
    best_first,
    by_prefix,
    crop_to_active,
    join_factors,
    loss_table,
    mlp_layers,
    shared_order,
)
from microtome.measures.causal_importance import component_categories
from microtome.measures.contributions import (
    best_component_contributions,
    component_neuron_contributions,
    neuron_contributions,
    virtual_weights,
)
from microtome.measures.recovery import cosine_similarities

Arrays = Mapping[str, np.ndarray]
Pictures = Iterator[tuple[str, Figure]]

# What the papers report for TMS (mean max cosine similarity, mean L2 ratio), by method and size.
PUBLISHED: dict[tuple[object, ...], dict[str, tuple[float, float]]] = {
    ("apd", 5, 2): {"APD paper": (0.998, 0.893)},
    ("apd", 40, 10): {"APD paper": (0.996, 0.935)},
    ("spd", 5, 2): {"SPD paper": (1.000, 0.993)},
    ("spd", 40, 10): {"SPD paper": (1.000, 1.010)},
}
MAX_COMPONENT_PANELS = 15
MAX_DIAGRAM_PANELS = 10
MAX_IMAGES = 18


@dataclass(frozen=True)
class Results:
    """What a run stored: the method's name and the arrays of each file (empty when it is not there)."""

    method: str
    arrays: Mapping[str, Arrays]


def draw_all(run: RunFolder) -> list[Path]:
    """Draw into ``plots/`` all that the run's results allow; returns the pictures' paths in reading order."""
    method = "apd" if "apd" in run.kind else "spd"
    results = Results(method, {name: _load(run, name) for name in _DRAWN_FROM})
    drawn: list[tuple[str, Figure]] = []
    losses = loss_table(run.metrics())
    if losses is not None:
        drawn.append(("loss_curves", plots.loss_curves(*losses)))
    for name, draw in _DRAWN_FROM.items():
        if results.arrays[name]:
            drawn.extend(draw(results))
    return [run.save_figure(name, figure) for name, figure in drawn]


def redraw(path: str | Path) -> list[Path]:
    """Draw the pictures of the run in folder ``path`` again. Raises ``CannotLoad`` when it is no run."""
    return draw_all(RunFolder.open(path))


def _load(run: RunFolder, name: str) -> dict[str, np.ndarray]:
    return run.load_arrays(name) if (run.path / "results" / f"{name}.npz").is_file() else {}


def _recovery(results: Results) -> Pictures:
    arrays = results.arrays["recovery"]
    targets = by_prefix(results.arrays["weights"], "target")
    shape = next(iter(targets.values())).shape[1:] if targets else (arrays["cosine"].shape[1], 0)
    recovered = arrays.get("recovered")
    yield (
        "recovery",
        plots.recovery_over_seeds(
            arrays["cosine"],
            arrays["ratio"],
            recovered=None if recovered is None else [int(n) for n in recovered],
            reference=PUBLISHED.get((results.method, *shape)),
        ),
    )


def _weights(results: Results) -> Pictures:
    targets, left, right = (by_prefix(results.arrays["weights"], p) for p in ("target", "left", "right"))
    lower = by_prefix(results.arrays["causal_importance"], "lower")
    first = next(iter(targets))
    if "linear1" in targets:
        yield from _toy_model(targets, left, right, results.arrays["recovery"])
    for site, target in targets.items():
        parts = join_factors(left[site][0], right[site][0])
        order, names, left_out = best_first(parts, MAX_COMPONENT_PANELS)
        suffix = "" if site == first else f"_{site.replace('.', '_')}"
        if target[0].size <= 20_000:
            yield (
                f"component_weights{suffix}",
                plots.component_weights(
                    target[0],
                    parts.sum(axis=0),
                    parts[order],
                    names=names,
                    site=site,
                    left_out=left_out,
                    transpose=target.shape[1] > target.shape[2],
                ),
            )
    if all(left[site].shape[-1] == 1 for site in targets):
        orders = {site: shared_order(lower.get(site), left[site][0], right[site][0]) for site in targets}
        yield (
            "UV_matrices",
            plots.uv_matrices(
                {site: left[site][0, orders[site], :, 0].T for site in targets},
                {site: right[site][0, orders[site], 0, :] for site in targets},
                component_names={site: [str(c) for c in orders[site]] for site in targets},
            ),
        )


def _toy_model(targets: Arrays, left: Arrays, right: Arrays, recovery: Arrays) -> Pictures:
    target = targets["linear1"]
    parts = np.stack([join_factors(left["linear1"][k], right["linear1"][k]) for k in range(len(target))])
    n_features, n_hidden = target.shape[1:]
    if plots.can_draw_diagram(n_features, n_hidden):
        for k in range(min(len(target), 4)):
            order, names, left_out = best_first(parts[k], MAX_DIAGRAM_PANELS, like=target[k])
            yield (
                "tms_combined_diagram" if k == 0 else f"tms_combined_diagram_{k}",
                plots.tms_combined_diagram(
                    target[k],
                    parts[k].sum(axis=0),
                    parts[k, order],
                    names=[f"Component {name}" for name in names],
                    hidden=_hidden_panels(targets, left, right, k, len(order)),
                    left_out=left_out,
                ),
            )
    if recovery:
        largest = np.linalg.norm(target, axis=-1).max(axis=-1)
        closest = np.stack([
            np.nan_to_num(cosine_similarities(part, whole), nan=-1.0).max(axis=1)
            for part, whole in zip(parts, target, strict=True)
        ])  # fmt: skip
        norms = np.sqrt(np.square(parts).sum(axis=(2, 3))) / np.maximum(largest, 1e-12)[:, None]
        yield (
            "cosine_similarity_analysis",
            plots.cosine_similarity_analysis(norms, closest, recovery["cosine"], recovery["ratio"]),
        )


def _hidden_panels(
    targets: Arrays, left: Arrays, right: Arrays, k: int, n_components: int
) -> list[list[np.ndarray]]:
    """Hidden-layer matrices of each panel: the target's, the sum's, and none in a component of linear1."""
    layers = [site for site in targets if site.startswith("hidden_layers.")]
    if not layers:
        return []
    whole = [targets[site][k] for site in layers]
    total = [join_factors(left[site][k], right[site][k]).sum(axis=0) for site in layers]
    return [whole, total, *[[np.zeros_like(w) for w in whole]] * n_components]


def _causal_importance(results: Results) -> Pictures:
    arrays = results.arrays["causal_importance"]
    lower, upper = by_prefix(arrays, "lower"), by_prefix(arrays, "upper")
    orders = {site: crop_to_active(values[0]) for site, values in lower.items()}
    for suffix, values in (("", lower), ("_upper_leaky", upper)):
        if values:
            yield (
                f"causal_importances{suffix}",
                plots.causal_importances(
                    {site: values[site][0][:, orders[site]] for site in values},
                    component_names={site: [str(c) for c in orders[site]] for site in values},
                    totals={site: values[site].shape[-1] for site in values},
                    upper_leaky=bool(suffix),
                    input_label="feature that is on (x = 0.75)" if "classes" not in arrays else "input",
                ),
            )
    if histograms := by_prefix(arrays, "histogram"):
        totals = {site: counts.sum(axis=0).astype(float) for site, counts in histograms.items()}
        yield "mask_vals", plots.importance_histograms(totals, arrays["histogram_edges"])
    if frequencies := by_prefix(arrays, "frequency"):
        yield "mean_component_activation_counts", plots.mean_component_activation_counts(frequencies)


def _attributions(results: Results) -> Pictures:
    arrays = results.arrays["attributions"]
    features = arrays["features"][0]
    yield "subnetwork_attributions", plots.subnetwork_attributions(features)
    relative = features / max(float(features.max()), 1e-30)
    _, counts = component_categories(relative)
    yield "subnet_categories", plots.subnet_categories(counts, features.shape[1], features.shape[0])
    if "batch" in arrays:
        figure = plots.subnetwork_attributions_statistics(arrays["batch"][0])
        yield "subnetwork_attributions_statistics", figure
    if "selected" in arrays and "features_on" in arrays:
        selected = arrays["selected"][0].astype(float)
        on = arrays["features_on"][0].astype(float)
        figure = plots.subnetwork_attributions_batch_statistics(
            selected.sum(axis=-1), on, selected.mean(axis=0)
        )
        yield "subnetwork_attributions_batch_statistics", figure


def _residual_mlp(results: Results) -> Pictures:
    targets, left, right = (by_prefix(results.arrays["weights"], p) for p in ("target", "left", "right"))
    embed, unembed = results.arrays["embedding"]["W_E"][0], results.arrays["embedding"]["W_U"][0]
    whole: dict[str, np.ndarray] = {}
    found: dict[str, np.ndarray] = {}
    correlation: dict[str, float] = {}
    for layer, (site_in, site_out) in mlp_layers(targets).items():
        parts_in = join_factors(left[site_in][0], right[site_in][0])
        parts_out = join_factors(left[site_out][0], right[site_out][0])
        # An APD component spans the layers; SPD's input components share the summed output side.
        out = parts_out if left[site_in].shape[-1] > 1 else parts_out.sum(axis=0)
        best = best_component_contributions(component_neuron_contributions(embed, parts_in, out, unembed))
        whole[layer] = neuron_contributions(embed, targets[site_in][0], targets[site_out][0], unembed)
        found[layer] = best.values
        correlation[layer] = float(np.corrcoef(whole[layer].ravel(), best.values.ravel())[0, 1])
        names = [str(c) for c in best.component[:10]]
        figure = plots.neuron_contributions(whole[layer][:10], best.values[:10], names)
        yield f"resid_mlp_weights_{layer.replace('.', '_')}", figure
        virtual = virtual_weights(embed, targets[site_in][0], targets[site_out][0], unembed)
        yield (
            f"virtual_weights_{layer.replace('.', '_')}",
            plots.virtual_weights(virtual.through, virtual.direct),
        )
    if whole:
        yield "neuron_contribution_pairs", plots.neuron_contribution_pairs(whole, found, correlation)


def _images(results: Results) -> Pictures:
    importance = by_prefix(results.arrays["classes"], "importance")
    site = next(iter(importance))
    left, right = results.arrays["weights"][f"left/{site}"][0], results.arrays["weights"][f"right/{site}"][0]
    height, width = (int(n) for n in results.arrays["classes"]["image_shape"])
    strengths = importance[site][0].T
    order = np.argsort(-strengths.max(axis=1), kind="stable")[:MAX_IMAGES]
    # A component's sign is shared between its factors: show the side on which it excites the next layer.
    signs = np.sign(right[order, 0].sum(axis=-1))
    images = left[order, :, 0] * np.where(signs == 0, 1, signs)[:, None]
    yield (
        f"components_{site.replace('.', '_')}",
        plots.component_images(
            images.reshape(-1, height, width), strengths[order], [f"component {c}" for c in order]
        ),
    )


_DRAWN_FROM: dict[str, Callable[[Results], Pictures]] = {
    "recovery": _recovery,
    "weights": _weights,
    "causal_importance": _causal_importance,
    "attributions": _attributions,
    "embedding": _residual_mlp,
    "classes": _images,
}
