"""Microtome: a workbench that takes neural networks apart."""

import importlib
from typing import Any

__version__ = "0.4.0"

# Public name -> where it lives, with a colon where it goes by another name there. Loaded on first use, so
# that `import microtome` imports no torch.
_PUBLIC = {
    "MicrotomeError": "microtome.core.errors",
    "Recorder": "microtome.dynamics.recorder",
    "RunFolder": "microtome.core.runs",
    "ablate": "microtome.decomposition.mechanisms.ablation",
    "activation_examples": "microtome.decomposition.mechanisms.examples:harvest",
    "at": "microtome.dynamics.when",
    "cluster_components": "microtome.decomposition.mechanisms.clustering:cluster",
    "compare": "microtome.comparison.api",
    "compare_runs": "microtome.decomposition.interpret.compare",
    "component_attributions": "microtome.decomposition.mechanisms.attributions:attributions",
    "components": "microtome.decomposition.interpret.components",
    "decompose": "microtome.decomposition.api",
    "evaluate": "microtome.decomposition.evaluation.run",
    "every": "microtome.dynamics.when",
    "feature_importance": "microtome.gradients",
    "interpret": "microtome.decomposition.interpret.run",
    "layer_importance": "microtome.gradients",
    "load": "microtome.decomposition.result",
    "load_evaluation": "microtome.decomposition.evaluation.result",
    "load_comparison": "microtome.comparison.result",
    "load_interpretation": "microtome.decomposition.interpret.interpretation",
    "load_magnitude": "microtome.magnitude.result:load",
    "load_sweep": "microtome.sweep.run",
    "load_recording": "microtome.dynamics.run:open_run",
    "load_target": "microtome.targets.loading",
    "log2_then": "microtome.dynamics.when",
    "sweep_importance": "microtome.magnitude.importance:compute",
    "sweep_magnitude": "microtome.magnitude.sweep:compute",
    "train_digits": "microtome.training.classify",
    "train_resid_mlp": "microtome.training.toy",
    "train_tms": "microtome.training.toy",
}

__all__ = ["__version__", *_PUBLIC]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'microtome' has no attribute {name!r}")
    module, _, own = _PUBLIC[name].partition(":")
    value = getattr(importlib.import_module(module), own or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_PUBLIC))
