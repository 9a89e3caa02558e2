"""Was ``meta_baseline/probing.py``."""

from microtome.comparison.documented.probes import (
    LinearProbe,
    collect_activations_with_labels,
    compare_meta_and_baseline_representations,
    compare_probing_results,
    probe_layer_representations,
    summarize_probe_results,
    train_probe,
)

__all__ = [
    "LinearProbe",
    "collect_activations_with_labels",
    "compare_meta_and_baseline_representations",
    "compare_probing_results",
    "probe_layer_representations",
    "summarize_probe_results",
    "train_probe",
]
