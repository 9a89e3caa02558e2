"""On networks whose mechanisms were planted every figure's data say what was planted."""

from functools import cache

import numpy as np
import pytest
from interpret_models import planted, subject

from microtome.core.runs import RunFolder
from microtome.decomposition.interpret.compute import PARTS
from microtome.decomposition.interpret.run import interpret
from microtome.decomposition.pictures import CATALOGUE

KINDS = ["spd tms", "apd tms", "spd resid_mlp", "apd resid_mlp"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    root = tmp_path_factory.mktemp("planted")

    @cache
    def make(kind):
        method, task = kind.split()
        # As many dimensions as features: no interference, so that everything is exact.
        sizes = {"n_layers": 2} if task == "resid_mlp" else {"n_hidden": 5}
        return planted(root / kind.replace(" ", "_"), method, task, **sizes)

    return make


@pytest.fixture(scope="module")
def part(model):
    @cache
    def compute(kind, name, **settings):
        s = subject(model(kind))
        assert PARTS[name].refused(s) == ""
        return PARTS[name].compute(s)

    return compute


@pytest.fixture(scope="module")
def interpreted(model, tmp_path_factory):
    """By kind: what ``interpret`` computes and stores; pictures are made but not rendered here."""
    root = tmp_path_factory.mktemp("interpreted")

    @cache
    def run(kind, only=None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(RunFolder, "save_figure", lambda run, name, *_, **__: run.path / name)
            return interpret(model(kind), n_samples=400, runs_root=root, note=lambda _: None, only=only)

    return run


@pytest.mark.parametrize("kind", KINDS)
def test_the_decomposition_computes_what_the_target_does(part, kind):
    errors = part(kind, "label_errors")
    assert errors["kinds"].tolist()[:2] == ["training distribution", "exactly 1 on"]
    np.testing.assert_allclose(errors["decomposition"][:, 1], errors["target"][:, 1], rtol=1e-3, atol=1e-7)
    losses = part(kind, "feature_losses")
    single = "topk_1" if kind.startswith("apd") else "causal_importance"
    np.testing.assert_allclose(losses[f"alone/{single}"], losses["alone/target"], rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(losses[f"sweep/{single}"], losses["sweep/target"], rtol=0.05, atol=1e-3)
    assert np.nanmax(losses["to_target"]) < 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_scrubbing_the_others_changes_nothing_and_the_responsible_everything(part, kind):
    losses = {name: float(np.nanmean(values)) for name, values in part(kind, "scrubbing").items()}
    assert losses["scrubbed"] < 1e-4
    assert losses["active"] < 1e-4
    assert losses["anti_scrubbed"] > 5 * max(losses["scrubbed"], losses["active"])
    assert losses["anti_scrubbed"] <= losses["zero"] * 1.5
    assert np.isnan(part(kind, "scrubbing")["scrubbed"]).any()  # inputs without any feature do not count


@pytest.mark.parametrize("kind", ["spd resid_mlp", "apd resid_mlp"])
def test_one_features_output_is_its_components_alone(part, kind):
    found = part(kind, "ablations")
    np.testing.assert_allclose(found["scrubbed_mean"], found["target"], atol=1e-4)
    np.testing.assert_allclose(found["chosen"], found["target"], atol=1e-4)
    np.testing.assert_allclose(found["scrubbed_sd"], 0, atol=1e-5)
    np.testing.assert_allclose(found["anti_scrubbed_mean"], 0, atol=1e-5)
    assert found["target"][0, 0, 0] > 0.5


@pytest.mark.parametrize("kind", ["spd resid_mlp", "apd resid_mlp"])
def test_responses_curves_and_ratios(part, kind):
    found = part(kind, "responses")
    np.testing.assert_allclose(found["one/chosen"], found["one/target"], atol=1e-4)
    np.testing.assert_allclose(found["one/all_components"], found["one/target"], atol=1e-4)
    np.testing.assert_allclose(
        found["one/direct"], np.eye(6)[None].repeat(len(found["one/direct"]), 0), atol=1e-5
    )
    values = found["curve_values"]
    # Two layers: r = x + 0.8 relu(x), then + 0.6 relu(1.1 r).
    first = values + 0.8 * np.maximum(values, 0)
    expected = first + 0.6 * np.maximum(1.1 * first, 0)
    np.testing.assert_allclose(found["curve/target"][0, 2], expected, atol=1e-5)
    np.testing.assert_allclose(found["curve/chosen"], found["curve/target"], atol=0.1)
    ratios = part(kind, "signal_to_noise")
    single = found["one/target"][0, 1]
    assert ratios["equal"][0, 1, 1] == pytest.approx(abs(single[1]) / single.std(ddof=1), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_components_are_on_as_often_as_their_features(part, kind):
    found = part(kind, "activity")
    site = "all" if kind.startswith("apd") else ("linear1" if "tms" in kind else "layers.0.mlp_in")
    n = 5 if "tms" in kind else 6
    assert (found[f"frequency/{site}"][:, :n] > 0).all()
    correlations = found[f"correlation/{site}"]
    if kind.startswith("spd"):  # APD's top k takes components without attribution where there are too few
        assert (found[f"frequency/{site}"][:, n:] == 0).all()
        assert np.isnan(correlations[:, n:]).all()
    np.testing.assert_allclose(np.diagonal(correlations, axis1=1, axis2=2)[:, :n], 1, atol=1e-6)
    if kind.startswith("spd"):  # small values stay below the threshold of their gate
        assert (found[f"count/{site}"] <= found["features_on"]).mean() > 0.99
        assert (found[f"count/{site}"] == found["features_on"]).mean() > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_the_stored_numbers_say_what_was_planted(interpreted, kind):
    found = interpreted(kind, ("subnet_categories",)).numbers
    n, unused = (5, 2) if "tms" in kind else (6, 1)
    first = "all" if kind.startswith("apd") else ("linear1" if "tms" in kind else "layers.0.mlp_in")
    categories = {name: values[0] for name, values in found["subnet_categories"][first].items()}
    assert categories == {"dead": unused, "mono": n, "duo": 0, "poly": 0, "represented": n, "own": n}
    if kind.startswith("spd"):
        assert {error for values in found["identity_error"].values() for error in values} == {0}
    if "tms" in kind:
        assert found["recovery"]["recovered_mechanisms"][0] == 5
        assert found["recovery"]["mmcs"][0] == pytest.approx(1.0)
    else:
        correlations = found["neuron_contribution_correlation"]
        assert list(correlations) == ["layers.0", "layers.1"]
        assert [values[0] for values in correlations.values()] == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("kind", ["spd tms", "apd resid_mlp"])
def test_every_figure_is_drawn_or_left_out_with_a_reason(interpreted, kind):
    found = interpreted(kind)
    assert set(found.figures()) | set(found.left_out) == set(CATALOGUE)
    never = {"components_", "loss_curves"}
    other = {n for n, p in CATALOGUE.items() if "TMS" in found.left_out.get(n, "")}
    method = {n for n in found.left_out if "APD" in found.left_out[n] or "gates" in found.left_out[n]}
    resid = {n for n in found.left_out if "residual MLP" in found.left_out[n]}
    words = ("hidden layers", "rank one", "dimensions, not 2")
    shape = {name for name, reason in found.left_out.items() if any(word in reason for word in words)}
    assert set(found.left_out) == never | other | method | resid | shape
    assert ("tms_combined_diagram" in found.figures()) == ("tms" in kind)
    assert ("resid_mlp_weights" in found.figures()) == ("resid_mlp" in kind)
    for name in ("scrub_hist", "individual_feature_responses", "subnetwork_correlation_matrix"):
        assert found.plot(name).axes
