"""Pictures of any decomposition, from stored arrays."""

from collections.abc import Iterator

import numpy as np
from matplotlib.figure import Figure

from microtome.decomposition import plots
from microtome.decomposition.interpret.categories import category_strengths
from microtome.decomposition.interpret.stored import LeftOut, Picture, Pictures, Stored
from microtome.decomposition.picture_data import (
    best_first,
    by_prefix,
    crop_to_active,
    join_factors,
    loss_table,
    shared_order,
)
from microtome.measures.causal_importance import component_categories

MAX_COMPONENT_PANELS = 15
MAX_IMAGES = 18
MAX_CORRELATED = 120
# Matrices with more entries than this make unreadable heatmaps.
MAX_HEATMAP = 20_000


def loss_curves(stored: Stored) -> Pictures:
    losses = loss_table(stored.run.metrics())
    if losses is None:
        raise LeftOut("the run's losses are not stored")
    yield "loss_curves", plots.loss_curves(*losses)


def component_weights(stored: Stored) -> Pictures:
    targets, left, right = stored.factors()
    drawn = 0
    for index, (site, target) in enumerate(targets.items()):
        if target.size > MAX_HEATMAP:
            continue
        drawn += 1
        parts = join_factors(left[site], right[site])
        order, names, left_out = best_first(
            parts, MAX_COMPONENT_PANELS, threshold=stored.config.size_threshold
        )
        figure = plots.component_weights(
            target,
            parts.sum(axis=0),
            parts[order],
            names=names,
            site=site,
            left_out=left_out,
            transpose=target.shape[0] > target.shape[1],
        )
        yield f"component_weights{'' if index == 0 else '_' + site.replace('.', '_')}", figure
    if not drawn:
        raise LeftOut("every matrix is too large for a heatmap")


def uv_matrices(stored: Stored) -> Pictures:
    targets, left, right = stored.factors()
    if any(left[site].shape[-1] > 1 for site in targets):
        raise LeftOut("components are not rank one")
    lower = stored.shown("causal_importance", "lower")
    orders = {
        site: shared_order(None if site not in lower else lower[site][None], left[site], right[site])
        for site in targets
    }
    figure = plots.uv_matrices(
        {site: left[site][orders[site], :, 0].T for site in targets},
        {site: right[site][orders[site], 0, :] for site in targets},
        component_names={site: [str(c) for c in orders[site]] for site in targets},
    )
    yield "UV_matrices", figure


def _importances(stored: Stored, prefix: str) -> Iterator[Figure]:
    lower, values = stored.shown("causal_importance", "lower"), stored.shown("causal_importance", prefix)
    if not values:
        raise LeftOut("needs a toy model, whose inputs are features")
    orders = {site: crop_to_active(one) for site, one in lower.items()}
    yield plots.causal_importances(
        {site: values[site][:, orders[site]] for site in values},
        component_names={site: [str(c) for c in orders[site]] for site in values},
        totals={site: values[site].shape[-1] for site in values},
        upper_leaky=prefix == "upper",
    )


def causal_importances(stored: Stored) -> Pictures:
    for figure in _importances(stored, "lower"):
        yield "causal_importances", figure


def causal_importances_upper_leaky(stored: Stored) -> Pictures:
    for figure in _importances(stored, "upper"):
        yield "causal_importances_upper_leaky", figure


def mask_vals(stored: Stored) -> Pictures:
    arrays = stored.arrays("causal_importance")
    histograms = by_prefix(arrays, "histogram")
    if not histograms:
        raise LeftOut("no histograms of causal importances are stored")
    totals = {site: counts.sum(axis=0).astype(float) for site, counts in histograms.items()}
    yield "mask_vals", plots.importance_histograms(totals, arrays["histogram_edges"])


def mean_component_activation_counts(stored: Stored) -> Pictures:
    frequencies = by_prefix(stored.arrays("causal_importance"), "frequency")
    if not frequencies:
        raise LeftOut("no frequencies of components are stored")
    yield "mean_component_activation_counts", plots.mean_component_activation_counts(frequencies)


def subnetwork_attributions(stored: Stored) -> Pictures:
    arrays = stored.arrays("attributions")
    yield "subnetwork_attributions", plots.subnetwork_attributions(arrays["features"][stored.instance])


def subnetwork_attributions_statistics(stored: Stored) -> Pictures:
    arrays = stored.arrays("attributions")
    if "batch" not in arrays:
        raise LeftOut("the attributions of a batch are not stored")
    figure = plots.subnetwork_attributions_statistics(arrays["batch"][stored.instance])
    yield "subnetwork_attributions_statistics", figure
    if "selected" in arrays and "features_on" in arrays:
        selected = arrays["selected"][stored.instance].astype(float)
        on = arrays["features_on"][stored.instance].astype(float)
        figure = plots.subnetwork_attributions_batch_statistics(
            selected.sum(axis=-1), on, selected.mean(axis=0)
        )
        yield "subnetwork_attributions_batch_statistics", figure


def subnet_categories(stored: Stored) -> Pictures:
    strengths, rule = category_strengths(stored, stored.instance)
    cutoff = stored.config.cutoff
    counts = {site: component_categories(values, cutoff)[1] for site, values in strengths.items()}
    n_features = next(iter(strengths.values())).shape[0]
    components = {site: values.shape[1] for site, values in strengths.items()}
    figure = plots.subnet_categories(counts, components, n_features, rule=f"{rule} above {cutoff:g}")
    yield "subnet_categories", figure


def component_images(stored: Stored) -> Pictures:
    importance = stored.shown("classes", "importance")
    site = next(iter(importance))
    _, left, right = stored.factors()
    height, width = (int(n) for n in stored.arrays("classes")["image_shape"])
    strengths = importance[site].T
    order = np.argsort(-strengths.max(axis=1), kind="stable")[:MAX_IMAGES]
    # A component's sign is shared between its factors: show the side on which it excites the next layer.
    signs = np.sign(right[site][order, 0].sum(axis=-1))
    images = left[site][order, :, 0] * np.where(signs == 0, 1, signs)[:, None]
    figure = plots.component_images(
        images.reshape(-1, height, width), strengths[order], [f"component {c}" for c in order]
    )
    yield f"components_{site.replace('.', '_')}", figure


def component_activation_statistics(stored: Stored) -> Pictures:
    arrays = stored.arrays("activity")
    figure = plots.component_activation_statistics(
        stored.shown("activity", "frequency"),
        stored.shown("activity", "mean"),
        stored.shown("activity", "count"),
        arrays["features_on"][stored.instance] if "features_on" in arrays else None,
        measure="causal importance" if stored.method == "spd" else "mask",
    )
    yield "component_activation_statistics", figure


def subnetwork_correlation_matrix(stored: Stored) -> Pictures:
    found = stored.shown("activity", "correlation")
    lower = stored.shown("causal_importance", "lower")
    shown, names, away = {}, {}, {}
    for site, values in found.items():
        varies = np.flatnonzero(np.isfinite(np.diag(values)))
        order = crop_to_active(lower[site]) if site in lower else varies
        order = np.concatenate([order[np.isin(order, varies)], np.setdiff1d(varies, order)])[:MAX_CORRELATED]
        if not len(order):
            continue
        shown[site] = values[np.ix_(order, order)]
        names[site] = [str(c) for c in order]
        away[site] = len(values) - len(varies)
    if not shown:
        raise LeftOut("no component changes from input to input")
    figure = plots.subnetwork_correlation_matrix(shown, names=names, left_out=away)
    yield "subnetwork_correlation_matrix", figure


def scrub_hist(stored: Stored) -> Pictures:
    arrays = {name: values[stored.instance] for name, values in stored.arrays("scrubbing").items()}
    chosen = "masked by causal importance" if stored.method == "spd" else "top-k"
    names = {"active": chosen, "scrubbed": "scrubbed", "anti_scrubbed": "anti-scrubbed"}
    losses = {words: _known(arrays[name]) for name, words in names.items()}
    if not len(losses[chosen]):
        raise LeftOut("no input had a feature on")
    baselines = {}
    if "monosemantic" in arrays:
        baselines["one neuron a feature"] = float(_known(arrays["monosemantic"]).mean())
    yield "scrub_hist", plots.scrub_histogram(losses, baselines=baselines)


def _known(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)].astype(np.float64)


PICTURES = (
    Picture(
        "component_weights",
        "What do the largest components look like as matrices, and do all of them sum to the target?",
        ("weights",),
        component_weights,
    ),
    Picture("UV_matrices", "Which inputs does each rank-one component read, which outputs does it write?",
            ("weights",), uv_matrices),
    Picture("causal_importances", "Which component is needed when one feature is on?",
            ("causal_importance",), causal_importances),
    Picture("causal_importances_upper_leaky",
            "The same through the sigmoid that the minimality loss sees: are small importances really 0?",
            ("causal_importance",), causal_importances_upper_leaky),
    Picture("mask_vals", "How sharp are the causal importances: peaks at 0 and 1 only?",
            ("causal_importance",), mask_vals),
    Picture("mean_component_activation_counts", "How often is each component active, in every seed?",
            ("causal_importance",), mean_component_activation_counts),
    Picture("subnetwork_attributions", "Which component does APD attribute each feature to?",
            ("attributions",), subnetwork_attributions),
    Picture("subnetwork_attributions_statistics", "How do attributions and choices spread over a batch?",
            ("attributions",), subnetwork_attributions_statistics),
    Picture("subnet_categories", "How many components are dead, or serve one feature, two, or more?",
            ("weights",), subnet_categories),
    Picture("components_", "What does each component look for, and for which classes does it fire?",
            ("classes",), component_images),
    Picture("component_activation_statistics", "How often are components on, and how many at a time?",
            ("activity",), component_activation_statistics, basic=False),
    Picture("subnetwork_correlation_matrix", "Which components are on together?",
            ("activity",), subnetwork_correlation_matrix, basic=False),
    Picture("scrub_hist", "Do the components that were not chosen matter?",
            ("scrubbing",), scrub_hist, basic=False),
    Picture("loss_curves", "How did the losses fall over training?", (), loss_curves),
)  # fmt: skip
