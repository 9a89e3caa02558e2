"""What is measured once: weights against their components, and causal importances of single features."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from old_layouts import write_later_spd_run, write_spd_paper_run

from microtome.core.errors import MicrotomeError
from microtome.decomposition.evaluation.identity import Identity, identity, matched
from microtome.decomposition.evaluation.run import evaluate
from microtome.decomposition.evaluation.weights import faithfulness, weight_errors
from microtome.decomposition.metric_configs import DenseSites, IdentityCIError, IdentitySites
from microtome.decomposition.result import load


def test_weight_errors_by_site(tmp_path: Path):
    d = load(write_later_spd_run(tmp_path, planted=False, n_hidden_layers=1).checkpoint)
    found, squares, n = weight_errors(d), 0.0, 0
    for name, site in d.sites.items():
        summed = torch.zeros_like(site.weight[0])
        for part in d.component_weights(name)[0]:
            summed += part
        missing = float((site.weight[0] - summed).square().sum())
        size = float(site.weight[0].square().sum())
        assert float(found[name][0]) == pytest.approx(missing / size, rel=1e-4)
        squares, n = squares + missing, n + summed.numel()
    assert float(faithfulness(d)[0]) == pytest.approx(squares / n, rel=1e-4)


def test_components_that_are_not_finite_fail_the_check_of_the_weights(tmp_path: Path):
    d = load(write_later_spd_run(tmp_path, planted=False).checkpoint)
    next(iter(d.parameters.values())).data[0, 0, 0] = float("nan")
    assert max(float(error.max()) for error in weight_errors(d).values()) == float("inf")
    checks = {check.name: check.status for check in evaluate(d, metrics=["faithfulness"]).checks}
    assert checks["weights"] == "failed"


def test_a_planted_decomposition_has_no_entry_off(tmp_path: Path):
    d = load(write_spd_paper_run(tmp_path, n_hidden_layers=1).checkpoint)
    found = identity(d)
    assert found is not None
    assert {name: type(p).__name__ for name, p in found.patterns.items()} == {
        "linear1": "IdentitySites",
        "hidden_layers.0": "DenseSites",
        "linear2": "IdentitySites",
    }
    assert found.total() == pytest.approx([0.0])
    assert {name: float(e.max()) for name, e in weight_errors(d).items()} == pytest.approx(
        dict.fromkeys(weight_errors(d), 0.0), abs=1e-9
    )


def slow_identity_error(ci: np.ndarray, tolerance: float) -> int:
    """By every assignment of components to features: the one with the largest diagonal."""
    n, c = ci.shape
    best = max(itertools.permutations(range(c), n), key=lambda p: sum(ci[i, p[i]] for i in range(n)))
    off = 0
    for i in range(n):
        for j in range(c):
            off += ci[i, j] < 1 - tolerance if best[i] == j else ci[i, j] > tolerance
    return int(off)


def test_entries_off_the_identity_against_every_assignment(tmp_path: Path):
    d = load(write_later_spd_run(tmp_path, planted=False, C=6).checkpoint)
    found = identity(d)
    assert found is not None
    for site in ("linear1", "linear2"):
        for tolerance in (0.1, 0.2):
            wanted = slow_identity_error(found.importances[site][0], tolerance)
            assert found.errors[site][tolerance].tolist() == [wanted]
    total = sum(int(found.errors[s][0.1][0]) for s in ("linear1", "linear2"))
    assert found.total() == pytest.approx([total])
    assert total > 0


def test_patterns_of_a_configuration(tmp_path: Path):
    d = load(write_spd_paper_run(tmp_path).checkpoint)
    config = IdentityCIError(
        identity_ci=(IdentitySites(layer_pattern="linear1", n_features=5),),
        dense_ci=(DenseSites(layer_pattern="linear*", k=5),),
    )
    found = identity(d, config)
    assert found is not None
    assert [type(p).__name__ for p in found.patterns.values()] == ["IdentitySites", "DenseSites"]
    wrong = identity(d, IdentityCIError(identity_ci=(IdentitySites(layer_pattern="*", n_features=4),)))
    assert isinstance(wrong, Identity) and wrong.total() is None
    assert wrong.refused["linear1"] == "the target has 5 features, the pattern 4"
    with pytest.raises(MicrotomeError, match="layer_pattern='x': matches no site; sites: linear1"):
        matched([DenseSites(layer_pattern="x", k=1)], ["linear1"])


def test_too_few_components_are_told_and_not_counted(tmp_path: Path):
    d = load(write_later_spd_run(tmp_path, planted=False, C=3).checkpoint)
    found = identity(d)
    assert found is not None
    assert found.total() is None
    assert found.refused["linear1"] == "C=3 is below the 5 components that the pattern has"
