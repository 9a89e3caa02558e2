"""From the arrays of an evaluation to its pictures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from microtome.decomposition.evaluation.maskings import MASKINGS
from microtome.decomposition.picture_data import by_prefix, crop_to_active, shared_order
from microtome.decomposition.plots import evaluation as plots
from microtome.decomposition.plots.importances import causal_importances, importance_histograms
from microtome.decomposition.plots.weights import uv_matrices
from microtome.measures.causal_importance import permutation_to_dense

Arrays = Mapping[str, np.ndarray]
SHOWN = (*MASKINGS, "pgd", "pgd_per_input")


@dataclass(frozen=True)
class Picture:
    """One picture: what it answers, what it is drawn from (the start of arrays' names), and how."""

    question: str
    needs: str
    draw: Callable[[Arrays], Figure]


def _recon(arrays: Arrays) -> Figure:
    series = by_prefix(arrays, "series")
    measures = {}
    for measure in ("ce", "kl", "mse", "accuracy"):
        found = {name: series[f"{measure}/{name}"] for name in SHOWN if f"{measure}/{name}" in series}
        if found:
            measures[measure] = found
    return plots.outputs_under_masks(measures)


def _l0(arrays: Arrays) -> Figure:
    series = by_prefix(arrays, "series/l0")
    components = {name: int(count) for name, count in by_prefix(arrays, "components").items()}
    return plots.l0_by_site({name: series[name] for name in components}, components)


def _histograms(arrays: Arrays) -> Figure:
    counts = {name: found.sum(0).astype(float) for name, found in by_prefix(arrays, "histogram").items()}
    return importance_histograms(counts, arrays["histogram_edges"])


def _means(arrays: Arrays) -> Figure:
    return plots.sorted_by_site(by_prefix(arrays, "mean_importance"), "mean causal importance")


def _density(arrays: Arrays) -> Figure:
    return plots.sorted_by_site(by_prefix(arrays, "density"), "share of inputs it is active on")


def _permuted(arrays: Arrays) -> Figure:
    shown, names, totals = {}, {}, {}
    dense = {name for name, kind in by_prefix(arrays, "pattern").items() if str(kind) == "DenseSites"}
    for site, found in by_prefix(arrays, "single_feature").items():
        order = crop_to_active(found[0])
        if site in dense:
            order = permutation_to_dense(found[0])[: len(order)]
        shown[site], names[site] = found[0][:, order], [str(c) for c in order]
        totals[site] = found.shape[-1]
    return causal_importances(shown, component_names=names, totals=totals)


def _factors(arrays: Arrays) -> Figure:
    v, u = by_prefix(arrays, "V"), by_prefix(arrays, "U")
    features = by_prefix(arrays, "single_feature")
    order = {site: shared_order(features.get(site), v[site].T[..., None], u[site][:, None]) for site in v}
    return uv_matrices(
        {site: v[site][:, order[site]] for site in v},
        {site: u[site][order[site]] for site in v},
        component_names={site: [str(c) for c in order[site]] for site in v},
    )


PICTURES: dict[str, Picture] = {
    "recon": Picture("What each kind of mask does to the output, with 95 % intervals.", "series/", _recon),
    "l0": Picture("How many components matter for an input, site by site.", "series/l0/", _l0),
    "ci_histograms": Picture("Are causal importances near 0 or 1, or in between?", "histogram/", _histograms),
    "mean_importance": Picture("How much each component matters, sorted.", "mean_importance/", _means),
    "density": Picture("How often each component is active, sorted.", "density/", _density),
    "uv": Picture("Which inputs does each component read, which outputs does it write?", "V/", _factors),
    "permuted_ci": Picture("Does each feature have its component?", "single_feature/", _permuted),
}


def drawable(arrays: Arrays) -> list[str]:
    """The pictures that can be drawn from these arrays."""
    recon = any(name.startswith(("series/mse/", "series/kl/")) for name in arrays)
    return [
        name
        for name, picture in PICTURES.items()
        if (recon if name == "recon" else any(key.startswith(picture.needs) for key in arrays))
    ]
