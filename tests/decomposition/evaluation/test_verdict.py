"""Verdicts on decompositions that are known to be right, or wrong in a known way."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from old_layouts import write_apd_run, write_spd_paper_run

from microtome.core.errors import MicrotomeError
from microtome.decomposition.evaluation.checks import Check
from microtome.decomposition.evaluation.result import Evaluation
from microtome.decomposition.evaluation.run import evaluate, metric_names
from microtome.decomposition.result import Decomposition, load

QUICK: dict[str, Any] = {"n_eval_steps": 4, "batch_size": 128, "pgd_n_steps": 5}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Decomposition:
    """Orthogonal features, a component each, gates that open for it alone."""
    folder = tmp_path_factory.mktemp("planted")
    return load(write_spd_paper_run(folder, C=16, n_features=4, n_hidden=4).checkpoint)


def changed(d: Decomposition, change: dict[str, Any]) -> Decomposition:
    """The same decomposition with other parameters."""
    parameters = {name: change.get(name, lambda t: t)(t.clone()) for name, t in d.parameters.items()}
    return Decomposition(
        d.config, d.target, parameters, d.data, sites=list(d.sites), sigmoid_type=d.sigmoid_type
    )


def statuses(found: Evaluation) -> dict[str, str]:
    return {check.name: check.status for check in found.checks}


def test_a_right_decomposition_passes_every_check(planted: Decomposition):
    found = evaluate(planted, **QUICK)
    failed = {name: status for name, status in statuses(found).items() if status != "passed"}
    assert failed == {"training finished": "not measured"}
    assert found.passed
    assert found.values["recovered/ci"][0] > 0.99
    assert found.values["alive/linear1"] == [4.0]
    assert found.values["dead/linear1"] == [12.0]
    assert found.about["inputs_seen"] == 512


def test_components_that_are_too_short_fail_by_their_weights(planted: Decomposition):
    found = evaluate(changed(planted, {"components.linear1.V": lambda v: 0.7 * v}), **QUICK)
    check = found.check("weights")
    assert check.status == "failed"
    assert check.values[0] == pytest.approx(0.3**2, rel=1e-3)
    assert statuses(found)["all components on"] == "failed"
    assert not found.passed


def gates_that(d: Decomposition, shift: float) -> Decomposition:
    names = [name for name in d.parameters if name.endswith(("out_bias", "b_out"))]
    assert names
    return changed(d, dict.fromkeys(names, lambda bias: bias + shift))


def test_gates_that_never_open_call_everything_unimportant(planted: Decomposition):
    found = evaluate(gates_that(planted, -100.0), **QUICK)
    told = statuses(found)
    assert told["all components on"] == "passed"
    assert (
        told["only what matters on"] == told["importances rounded"] == told["random in between"] == "failed"
    )
    assert told["adversarial masks"] == "not measured"
    assert told["components alive"] == "failed"
    assert "nothing ever fires at linear1, linear2" in found.check("components alive").why


def test_gates_that_are_always_open_fail_by_their_number_and_serve_every_input(planted: Decomposition):
    found = evaluate(gates_that(planted, 100.0), **QUICK)
    told = statuses(found)
    assert told["only what matters on"] == "passed"
    assert told["few at a time"] == told["importances are the input's"] == "failed"
    assert found.check("few at a time").values == (100.0,)
    assert found.check("importances are the input's").values == (1.0,)
    assert told["one component a feature"] == "failed"


def test_components_in_the_wrong_place_fail_although_they_add_up(planted: Decomposition):
    """Two features share a component, and another holds their difference: right sum, wrong parts."""

    def mixed(v: torch.Tensor) -> torch.Tensor:  # [K, d_in, C]
        out = v.clone()
        out[..., 0], out[..., 1] = v[..., 0] + v[..., 1], v[..., 0] - v[..., 1]
        return out / 2**0.5

    def mixed_u(u: torch.Tensor) -> torch.Tensor:  # [K, C, d_out]
        return mixed(u.mT).mT

    names = {"components.linear1.V": mixed, "components.linear1.U": mixed_u}
    found = evaluate(changed(planted, names), **QUICK)
    told = statuses(found)
    assert told["features recovered"] == "failed"
    assert told["one component a feature"] == "failed"
    assert not found.passed


def test_apd_is_checked_as_far_as_it_goes(tmp_path: Path):
    run = write_apd_run(tmp_path, config={"topk": 1.0, "batch_topk": False}, n_features=4, n_hidden=4)
    found = evaluate(run.checkpoint, data=torch.eye(4).repeat(64, 1), **QUICK)
    told = statuses(found)
    assert told["weights"] == told["all components on"] == told["only what matters on"] == "passed"
    for name in ("random in between", "adversarial masks", "one component a feature"):
        assert told[name] == "not measured"
        assert "no causal importances" in found.check(name).why


def test_where_ablating_costs_nothing_there_is_nothing_to_recover(planted: Decomposition):
    found = evaluate(planted, data=torch.zeros(200, 4), metrics=["recon"], n_eval_steps=4)
    for name in ("all components on", "only what matters on", "random in between"):
        assert found.check(name).status == "not measured"
        assert "nothing to recover" in found.check(name).why


def test_what_was_not_asked_for_is_not_measured(planted: Decomposition):
    found = evaluate(planted, metrics=["CI_L0", "faithfulness"], **QUICK)
    told = statuses(found)
    assert {name for name, status in told.items() if status == "passed"} == {"weights", "few at a time"}
    assert found.check("adversarial masks").why == "pgd_recon was not asked for"
    assert found.passed
    assert not any(name.startswith("mse/") for name in found.values)


def test_thresholds_are_fields(planted: Decomposition):
    found = evaluate(planted, max_l0_share=0.001, metrics=["ci_l0"], **QUICK)
    assert found.check("few at a time").status == "failed"
    assert found.check("few at a time").wanted == "at most 0.1 % of the components"


def test_the_same_seed_gives_the_same_numbers_and_more_batches_a_narrower_margin(planted: Decomposition):
    first, again = (evaluate(planted, metrics=["recon"], n_eval_steps=4, batch_size=64) for _ in range(2))
    assert first.values == again.values
    other = evaluate(planted, metrics=["recon"], n_eval_steps=4, batch_size=64, seed=1)
    assert other.values["mse/random"] != first.values["mse/random"]
    many = evaluate(planted, metrics=["recon"], n_eval_steps=40, batch_size=64)
    narrow, wide = many.margins["mse/random"], first.margins["mse/random"]
    assert narrow is not None and wide is not None
    assert narrow[0] < wide[0]
    one = evaluate(planted, metrics=["recon"], n_eval_steps=1, batch_size=64)
    assert one.margins["mse/random"] is None
    assert "no spread over batches is known" in str(one)


def test_numbers_come_as_a_table_and_a_page(planted: Decomposition):
    found = evaluate(planted, metrics=["recon", "ci_l0"], **QUICK)
    frame = found.frame()
    row = frame[frame.measure == "mse/ci"].iloc[0]
    assert row.value == pytest.approx(found.values["mse/ci"][0])
    assert list(found.verdict().columns) == ["name", "measured", "wanted", "status", "why"]
    assert "<td>few at a time</td>" in found._repr_html_()
    np.testing.assert_allclose(found.arrays["series/mse/ci"].mean(0), found.values["mse/ci"])
    with pytest.raises(MicrotomeError, match="did you mean recon"):
        found.plot("recons")


def test_words_that_are_not_there_are_told():
    assert metric_names(["CEandKLLosses", "recon", "PGDReconLoss"]) == ["recon", "pgd_recon"]
    with pytest.raises(MicrotomeError, match="metrics='ci_lO': no such metric; did you mean ci_l0"):
        metric_names(["ci_lO"])


def test_a_check_keeps_its_words_when_stored(planted: Decomposition):
    check: Check = evaluate(planted, metrics=["faithfulness"], **QUICK).check("weights")
    assert replace(check) == check
    assert check.measured == "0" or float(check.measured) < 1e-6
