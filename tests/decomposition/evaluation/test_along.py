"""Evaluations inside training: rows of the metrics, stored arrays, and a training that does not notice."""

from pathlib import Path

import pytest
import torch
from small_runs import start

from microtome.decomposition.evaluation.run import evaluate

pytestmark = pytest.mark.usefixtures("without_pictures")
EVERY = {"eval_freq": 20, "slow_eval_freq": 40, "n_eval_steps": 2, "eval_batch_size": 32, "pictures": False}
METRICS = [
    {"name": "ci_l0", "groups": {"both": ["linear*"]}},
    {"name": "ce_and_kl", "rounding_threshold": 0.1},
    {"name": "identity_ci_error"},
    {"name": "ci_histograms"},
    {"name": "pgd_recon", "n_steps": 2, "step_size": 0.2, "mask_scope": "unique_per_datapoint"},
]


def test_rows_of_the_metrics_and_the_same_training(target: Path, tmp_path: Path):
    plain = start("spd", target, tmp_path / "plain")
    run = start("spd", target, tmp_path / "evaluated", **EVERY, metrics=METRICS)
    mine, theirs = (r.latest_checkpoint() for r in (run, plain))
    assert mine is not None and theirs is not None
    different = [name for name in theirs[1] if not torch.equal(mine[1][name], theirs[1][name])]
    assert different == []
    rows = {row["step"]: row for row in run.metrics()}
    evaluated = [step for step, row in rows.items() if any(name.startswith("eval/") for name in row)]
    assert evaluated == [0, 20, 40, 60]
    fast, slow = rows[20], rows[40]
    assert len(fast["eval/l0/both"]) == 4
    assert fast["eval/l0/both"] == pytest.approx(fast["eval/l0/all"])
    assert "eval/recovered/ci" in fast and "eval/loss/pgd_recon" in slow
    assert "eval/identity_error" in slow and "eval/identity_error" not in fast
    assert "eval/weight_error/linear1" not in fast  # not among the run's metrics
    assert run.load_arrays("evaluation_s40")["histogram/linear1"].shape == (4, 60)
    assert not (run.path / "results" / "evaluation_s20.npz").exists()
    # The last row is what the command finds on the same inputs and masks.
    found = evaluate(run.path, n_eval_steps=2, batch_size=32, seed=0, metrics=["ci_l0", "recon"])
    assert rows[60]["eval/mse/ci"] == pytest.approx(found.values["mse/ci"], rel=1e-5)
    assert rows[60]["eval/l0/both"] == pytest.approx(found.values["l0/both"])
    assert found.values["mse/stochastic"] == pytest.approx(rows[60]["eval/mse/stochastic"], rel=1e-5)


def test_apd_is_evaluated_along_the_way_too(target: Path, tmp_path: Path):
    run = start("apd", target, tmp_path / "apd")
    found = evaluate(run.path, n_eval_steps=2, batch_size=32, metrics=["ci_l0"])
    assert list(found.about["components"]) == ["all sites"]
    assert found.values["l0/all sites"] == pytest.approx([0.5, 0.5])
