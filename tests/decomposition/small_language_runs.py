"""A language model of a few thousand weights, text for it, and decompositions of it that take a second."""

from pathlib import Path
from typing import Any

from tiny import TEXTS, save_model

LANGUAGE_STEPS = 8


def write_text(path: Path) -> Path:
    path.write_text("\n\n".join(TEXTS), encoding="utf-8")
    return path


def language_settings(folder: Path, **more: Any) -> dict[str, Any]:
    """Settings for the model in ``folder/model`` and the text beside it; ``task`` changes the task's."""
    task = {"task_name": "lm", "dataset": str(folder / "text.txt"), "context_length": 12}
    return {
        "pretrained_model_path": str(folder / "model"),
        "task_config": {**task, **more.pop("task", {})},
        "target_module_patterns": ["model.layers.*.mlp.down_proj", "model.layers.1.self_attn.v_proj"],
        "C": 6,
        "ci_fn_type": "shared_mlp",
        "ci_fn_hidden_dims": [5],
        "output_loss_type": "kl",
        "losses": [
            {"name": "faithfulness", "coeff": 1.0},
            {"name": "importance_minimality", "coeff": 1e-3, "pnorm": 2.0},
            {"name": "stochastic_recon", "coeff": 1.0},
            {"name": "stochastic_recon", "coeff": 0.5, "sites": "subset"},
        ],
        "faithfulness_warmup_steps": 3,
        "grad_clip_norm_components": 0.5,
        "grad_clip_norm_ci_fns": 0.5,
        "batch_size": 8,
        "steps": LANGUAGE_STEPS,
        "print_freq": 1,
        "save_freq": 2,
        "lr": 1e-3,
        "pictures": False,
        "device": "cpu",
        **more,
    }


def make_model(folder: Path) -> Path:
    """``folder`` with ``model/`` and ``text.txt`` in it."""
    save_model(folder / "model")
    write_text(folder / "text.txt")
    return folder
