"""Figures of a decomposition. Arrays in, Figure out: nothing here computes, reads or writes."""

from microtome.decomposition.plots.attributions import (
    subnetwork_attributions,
    subnetwork_attributions_batch_statistics,
    subnetwork_attributions_statistics,
)
from microtome.decomposition.plots.contributions import (
    feature_responses,
    neuron_contribution_pairs,
    neuron_contributions,
    per_feature_performance,
    scrub_histogram,
    virtual_weights,
)
from microtome.decomposition.plots.images import component_images
from microtome.decomposition.plots.importances import (
    causal_importances,
    importance_histograms,
    mean_component_activation_counts,
    subnet_categories,
    varying_importance_minimality,
)
from microtome.decomposition.plots.tms import (
    can_draw_diagram,
    cosine_similarity_analysis,
    tms_combined_diagram,
)
from microtome.decomposition.plots.training import loss_curves, recovery_over_seeds
from microtome.decomposition.plots.weights import component_weights, uv_matrices

__all__ = [
    "can_draw_diagram",
    "causal_importances",
    "component_images",
    "component_weights",
    "cosine_similarity_analysis",
    "feature_responses",
    "importance_histograms",
    "loss_curves",
    "mean_component_activation_counts",
    "neuron_contribution_pairs",
    "neuron_contributions",
    "per_feature_performance",
    "recovery_over_seeds",
    "scrub_histogram",
    "subnet_categories",
    "subnetwork_attributions",
    "subnetwork_attributions_batch_statistics",
    "subnetwork_attributions_statistics",
    "tms_combined_diagram",
    "uv_matrices",
    "varying_importance_minimality",
    "virtual_weights",
]
