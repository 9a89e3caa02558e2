"""Was ``meta_baseline/weight_analysis.py``."""

from microtome.comparison.documented.weights import (
    compare_weight_spaces,
    compute_weight_correlations,
    extract_weights,
    load_models,
    plot_pca_comparisons,
    plot_weight_statistics,
    run_pca_on_weights,
)

__all__ = [
    "compare_weight_spaces",
    "compute_weight_correlations",
    "extract_weights",
    "load_models",
    "plot_pca_comparisons",
    "plot_weight_statistics",
    "run_pca_on_weights",
]
