"""The summary of a run, on decompositions whose answer is known."""

import numpy as np
import pytest
import torch
from torch import Tensor

from microtome.core.runs import RunFolder
from microtome.data.images import digits
from microtome.data.sparse_features import SparseFeatures
from microtome.decomposition.evaluate import store_results
from microtome.decomposition.gates import GateWeights
from microtome.decomposition.result import Decomposition
from microtome.decomposition.spd_config import SPDConfig
from microtome.decomposition.subcomponents import Subcomponents
from microtome.targets.config import MLPModelConfig, TMSModelConfig
from microtome.targets.mlp import MLP
from microtome.targets.network import Target
from microtome.targets.tms import TMS


def linear_gates(k: int, c: int, slope: float, bias: float = 0.0) -> GateWeights:
    empty = torch.zeros(k, c, 0)
    return GateWeights(torch.full((k, c, 1), slope), empty, empty.clone(), torch.full((k, c), bias))


def planted_tms(run: RunFolder | None = None) -> Decomposition:
    """Component c is feature c's row of W; gates open fully when their feature is on. One dead component."""
    target = TMS(TMSModelConfig(n_features=4, n_hidden=3, n_instances=2)).reset(3).requires_grad_(False)
    weight = target.sites()["linear1"].weight
    v = torch.cat([torch.eye(4), torch.zeros(4, 1)], dim=1).expand(2, 4, 5).contiguous()
    u = torch.cat([weight, torch.zeros(2, 1, 3)], dim=1)
    gates = {"linear1": linear_gates(2, 5, 100.0), "linear2": linear_gates(2, 5, 0.0, 1.0)}
    parts = Subcomponents({"linear1": (v, u)}, gates, {"linear2": "linear1"})
    config = SPDConfig(C=5, n_ci_mlp_neurons=0, steps=1)
    return Decomposition(config, target, parts.named_parameters(), None, run)


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", SPDConfig(steps=1), kind="decompose-spd")


def test_a_planted_decomposition_is_told_apart_exactly(run):
    found = planted_tms()
    data = SparseFeatures(2, 4, 0.3, value_range=(0.5, 1.0))
    summary = store_results(run, found, data)
    assert summary["recovered_mechanisms"] == [4, 4]
    np.testing.assert_allclose(summary["mmcs"], 1.0, atol=1e-6)
    np.testing.assert_allclose(summary["ml2r"], 1.0, atol=1e-6)
    np.testing.assert_allclose(summary["ml2r_with_dead_components"], 1.0, atol=1e-6)
    assert max(summary["faithfulness"]) < 1e-12
    assert max(summary["output_error_all_components"]) < 1e-10
    assert max(summary["output_error_causal_importance"]) < 1e-10
    assert summary["identity_error"]["linear1"] == [0, 0]
    assert summary["alive"]["linear1"] == [4, 4]
    # L0 of the first layer is the mean number of features that are on.
    np.testing.assert_allclose(summary["l0"]["linear1"], 0.3 * 4, atol=0.1)
    importance = run.load_arrays("causal_importance")
    np.testing.assert_allclose(importance["lower/linear1"][0, :, :4], np.eye(4), atol=1e-6)


def test_masking_a_component_removes_its_feature():
    found = planted_tms()
    x = torch.eye(4).expand(2, 4, 4)
    masks = {"linear1": torch.ones(2, 4, 5)}
    masks["linear1"][:, :, 1] = 0.0
    without = found.forward(x, masks)
    whole = found.target(x)
    torch.testing.assert_close(without[:, [0, 2, 3]], whole[:, [0, 2, 3]])
    silent = found.target(torch.zeros(2, 1, 4))
    torch.testing.assert_close(without[:, 1:2], silent)


def test_accuracies_are_those_of_the_masked_networks(run):
    target: Target = MLP(MLPModelConfig(sizes=(64, 7, 10))).reset(0).requires_grad_(False)
    config = SPDConfig(C=7, n_ci_mlp_neurons=0, output_loss_type="kl", steps=1)
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    for name, site in target.sites().items():
        u, s, vh = torch.linalg.svd(site.weight, full_matrices=False)
        factors[name] = (u[..., :7] * s[:, None, :7], vh[:, :7])
    # Bias 0.5: every component is half important, whatever its input.
    gates = {name: linear_gates(1, 7, 0.0, 0.5) for name in factors}
    found = Decomposition(config, target, Subcomponents(factors, gates, {}).named_parameters())
    summary = store_results(run, found, digits().train)
    test = digits().test
    assert test.y is not None
    whole = (target(test.x[None])[0].argmax(-1) == test.y).float().mean().item()
    hidden = torch.relu(
        0.5 * test.x @ target.sites()["layers.0"].weight[0] + target.sites()["layers.0"].bias[0]
    )
    half = 0.5 * hidden @ target.sites()["layers.1"].weight[0] + target.sites()["layers.1"].bias[0]
    masked = (half.argmax(-1) == test.y).float().mean().item()
    assert summary["accuracy_target"] == [pytest.approx(whole)]
    assert summary["accuracy_all_components"] == [pytest.approx(whole, abs=0.003)]
    assert summary["accuracy_causal_importance"] == [pytest.approx(masked, abs=0.003)]
    assert summary["l0"] == {"layers.0": [7.0], "layers.1": [7.0]}


def test_a_dead_component_along_a_feature_is_not_its_mechanism(run):
    found = planted_tms()
    v, u = found.parameters["components.linear1.V"], found.parameters["components.linear1.U"]
    # The dead component points exactly along feature 2; the living one is a little off.
    v[:, 2, 4] = 1.0
    u[:, 4] = 0.01 * u[:, 2]
    u[:, 2] += 0.02
    summary = store_results(run, found, SparseFeatures(2, 4, 0.3))
    assert min(summary["ml2r"]) > 0.95
    assert max(summary["ml2r_with_dead_components"]) < 0.8
    assert summary["recovered_mechanisms"] == [4, 4]
