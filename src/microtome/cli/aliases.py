"""Names that older scripts went by, as the commands they are now."""

from pathlib import PurePosixPath, PureWindowsPath

# Old script name (without folder and .py) -> the words to type now.
ALIASES: dict[str, tuple[str, ...]] = {
    "train_tms": ("train", "tms"),
    "train_resid_mlp": ("train", "resid-mlp"),
    "tms_decomposition": ("decompose",),
    "resid_mlp_decomposition": ("decompose",),
    "run_spd": ("decompose",),
    "magnitude_sweep": ("magnitude",),
    "causal_importance_sweep": ("importance",),
    "component_visualization": ("components",),
    "compare_models": ("compare-runs",),
    "resid_mlp_interp": ("interpret",),
    "spd_interp": ("interpret",),
    "model_interp": ("interpret",),
    "plotting": ("interpret",),
    "layer_gradient_analysis": ("gradients", "layers"),
    "sae_gradient_analysis": ("gradients", "features"),
    "phase2_infrastructure": ("dynamics", "self-test"),
    "analyze_models": ("compare",),
}


def resolve(name: str) -> tuple[str, ...] | None:
    """The words that an old script name or path stands for, or None.

    ``train_tms``, ``train-tms`` and ``spd/experiments/tms/train_tms.py`` are the same.
    """
    stem = PureWindowsPath(PurePosixPath(name).name).name.removesuffix(".py")
    return ALIASES.get(stem.replace("-", "_"))
