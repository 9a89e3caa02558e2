"""Runs of a second or less that the tests of whole runs share."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from microtome.core.runs import RunFolder
from microtome.decomposition.config import config_from_mapping
from microtome.decomposition.decompose import run_config
from microtome.decomposition.loop import Loop

Captured, Patch = pytest.CaptureFixture[str], pytest.MonkeyPatch
Whole = Callable[[str], RunFolder]
STEPS, KILLED_AT, SAVED = 60, 37, 10
SETTINGS: dict[str, dict[str, Any]] = {
    "spd": {
        "C": 6,
        "lr_schedule": "cosine",
        "n_seeds": 2,
        "task_config": {"task_name": "tms", "feature_probability": 0.1},
    },
    "apd": {
        "C": 5,
        "m": 2,
        "topk": 0.5,
        "topk_recon_coeff": 1,
        "schatten_coeff": 0.7,
        "schatten_pnorm": 1,
        "unit_norm_matrices": True,
        "image_on_first_step": False,
        "lr_schedule": "linear",
        "lr_warmup_pct": 0.05,
    },
}
COMMON = {"steps": STEPS, "batch_size": 64, "print_freq": 7, "save_freq": SAVED, "lr": 3e-3}


def settings(method: str, target: Path, **more: Any) -> dict[str, Any]:
    values = {**COMMON, **SETTINGS[method], "method": method, **more}
    if method == "spd":
        return {**values, "pretrained_model_path": str(target / "tms.pth")}
    task = {"task_name": "tms", "feature_probability": 0.1, "pretrained_model_path": str(target)}
    return {**values, "task_config": task}


def start(method: str, target: Path, out: Path, **more: Any) -> RunFolder:
    config = config_from_mapping(settings(method, target, **more))
    return run_config(config, out_dir=out, progress=False)


def write_yaml(path: Path, values: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(values))
    return path


def tensors(run: RunFolder) -> dict[str, Tensor]:
    found = run.latest_checkpoint()
    assert found is not None and found[0] == STEPS
    return found[1]


def assert_same_run(one: RunFolder, other: RunFolder) -> None:
    """Bit for bit: parameters, optimiser, random streams; and the same lines of metrics, each once."""
    mine, theirs = tensors(one), tensors(other)
    assert mine.keys() == theirs.keys()
    different = [name for name in mine if not torch.equal(mine[name], theirs[name])]
    assert different == []
    assert one.metrics() == other.metrics()
    logged = [row["step"] for row in one.metrics()]
    assert logged == sorted({1, STEPS, *range(7, STEPS, 7)})
    assert one.summary == other.summary
    assert one.finished


def interrupt_at(step: int, monkeypatch: Patch) -> None:
    one_step = Loop._one_step

    def interrupted(self: Loop) -> dict[str, Tensor]:
        if self.step == step:
            signal.raise_signal(signal.SIGINT)
        return one_step(self)

    monkeypatch.setattr(Loop, "_one_step", interrupted)


class Classifier(nn.Module):
    """Twenty lines of somebody's own code."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 12)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(torch.relu(self.inner(x))))


SHORT: dict[str, Any] = {"steps": 30, "batch_size": 32, "C": 6, "lr": 1e-2, "print_freq": 10}


def rows(n: int = 50) -> Tensor:
    return torch.rand(n, 8, generator=torch.Generator().manual_seed(0))
