"""Figures of a decomposition. Arrays in, Figure out: nothing here computes, reads or writes."""

from microtome.decomposition.plots.activity import (
    component_activation_statistics,
    subnetwork_correlation_matrix,
)
from microtome.decomposition.plots.attributions import (
    subnetwork_attributions,
    subnetwork_attributions_batch_statistics,
    subnetwork_attributions_statistics,
)
from microtome.decomposition.plots.contributions import (
    neuron_contribution_pairs,
    neuron_contributions,
    relu_contributions,
    scrub_histogram,
    virtual_weights,
)
from microtome.decomposition.plots.errors import (
    avg_components_scatter,
    feature_losses,
    feature_representation_analysis,
    label_errors,
)
from microtome.decomposition.plots.images import component_images
from microtome.decomposition.plots.importances import (
    causal_importances,
    importance_histograms,
    mean_component_activation_counts,
    subnet_categories,
    varying_importance_minimality,
)
from microtome.decomposition.plots.responses import (
    feature_response_with_subnets,
    individual_feature_responses,
    resid_vs_mlp_out,
    response_and_curve,
    responses_and_curves,
    signal_to_noise,
)
from microtome.decomposition.plots.tms import (
    can_draw_diagram,
    cosine_similarity_analysis,
    tms_combined_diagram,
)
from microtome.decomposition.plots.tms_parts import tms_full_network, tms_hidden_layers, tms_vectors
from microtome.decomposition.plots.training import loss_curves, recovery_over_seeds
from microtome.decomposition.plots.weights import component_weights, uv_matrices

__all__ = [
    "avg_components_scatter",
    "can_draw_diagram",
    "causal_importances",
    "component_activation_statistics",
    "component_images",
    "component_weights",
    "cosine_similarity_analysis",
    "feature_losses",
    "feature_representation_analysis",
    "feature_response_with_subnets",
    "importance_histograms",
    "individual_feature_responses",
    "label_errors",
    "loss_curves",
    "mean_component_activation_counts",
    "neuron_contribution_pairs",
    "neuron_contributions",
    "recovery_over_seeds",
    "relu_contributions",
    "resid_vs_mlp_out",
    "response_and_curve",
    "responses_and_curves",
    "scrub_histogram",
    "signal_to_noise",
    "subnet_categories",
    "subnetwork_attributions",
    "subnetwork_attributions_batch_statistics",
    "subnetwork_attributions_statistics",
    "subnetwork_correlation_matrix",
    "tms_combined_diagram",
    "tms_full_network",
    "tms_hidden_layers",
    "tms_vectors",
    "uv_matrices",
    "varying_importance_minimality",
    "virtual_weights",
]
