"""The command on whole runs: what it prints, writes and refuses."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from old_layouts import write_apd_run, write_later_spd_run, write_spd_paper_run
from small_runs import Classifier, Whole, rows

import microtome
from microtome.cli.main import main
from microtome.core.config import Config as RunConfig
from microtome.core.errors import MicrotomeError
from microtome.core.runs import RunFolder
from microtome.decomposition.api import decompose
from microtome.decomposition.evaluation.result import load_evaluation
from microtome.decomposition.evaluation.run import evaluate
from microtome.explorer.report import write_report

Captured = pytest.CaptureFixture[str]
pytestmark = pytest.mark.usefixtures("without_pictures")
QUICK = ["--n_eval_steps", "3", "--batch_size", "64", "--pgd-n-steps", "3", "--quiet"]


def run(capsys: Captured, *words: str) -> tuple[int, str, str]:
    code = main(["decompose", "evaluate", *words])
    told = capsys.readouterr()
    return code, told.out, told.err


def test_a_run_of_ours(whole: Whole, capsys: Captured):
    folder = whole("spd").path
    code, out, err = run(capsys, str(folder), *QUICK)
    assert (code, err) == (0, "")
    assert "SPD, 4 seeds, 3 batches of 64 (fresh inputs, drawn as in training)" in out
    assert "failed " in out and "passed " in out and "13 checks: " in out
    assert "none of 4" in out, out
    stored = json.loads((folder / "evaluation.json").read_text())
    by_name = {check["name"]: check for check in stored["checks"]}
    assert by_name["few at a time"]["status"] in ("passed", "failed", "unclear")
    assert len(stored["values"]["mse/ci"]) == 4
    arrays = RunFolder.open(folder).load_arrays("evaluation")
    assert arrays["series/mse/pgd"].shape == (3, 4)
    assert arrays["mean_importance/linear1"].shape == (4, 6)
    drawn = {path.stem for path in (folder / "plots").glob("evaluation_*.png")}
    assert drawn == {
        f"evaluation_{name}"
        for name in ("recon", "l0", "ci_histograms", "mean_importance", "density", "permuted_ci", "uv")
    }
    assert RunFolder.open(folder).summary["method"] == "spd"  # the run's own results stay
    page = write_report(folder).read_text()
    assert "Verdict" in page and "few at a time" in page


def test_what_is_stored_is_told_again(whole: Whole, capsys: Captured):
    folder = whole("apd").path
    first = run(capsys, str(folder), *QUICK, "--no-pictures")
    again = run(capsys, str(folder), "--show")
    assert again == first
    found = load_evaluation(folder)
    assert found.plot("l0").axes
    assert not found.passed
    assert found.good_seeds == [
        k for k in range(2) if all(c.by_seed[k] == "passed" for c in found.checks if c.by_seed)
    ]


def test_strict_exits_with_1_when_something_failed(whole: Whole, capsys: Captured):
    folder = str(whole("spd").path)
    failing = [folder, *QUICK, "--metrics", "ci_l0", "--max_l0_share", "1e-6", "--no-pictures"]
    assert run(capsys, *failing)[0] == 0
    assert run(capsys, *failing, "--strict")[0] == 1
    passing = [folder, *QUICK, "--metrics", "ci_l0", "--max_l0_share", "1", "--no-pictures"]
    assert run(capsys, *passing, "--strict")[0] == 0


@pytest.mark.parametrize("write", [write_apd_run, write_spd_paper_run, write_later_spd_run])
def test_runs_of_the_original_codes(
    write: Callable, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    old = write(tmp_path / "old", "resid_mlp", n_layers=1, d_mlp=4)
    before = sorted(path.name for path in old.folder.iterdir())
    code, out, err = run(capsys, str(old.checkpoint), *QUICK, "--no-pictures")
    assert (code, err) == (0, "")
    assert "not measured  training finished" in out
    assert sorted(path.name for path in old.folder.iterdir()) == before  # theirs is left as it is
    (made,) = (tmp_path / "runs").iterdir()
    assert (made / "evaluation.json").is_file()
    assert RunFolder.open(made).finished
    code, out, _ = run(capsys, str(old.folder), *QUICK, "--no-pictures", "--output_dir", str(tmp_path / "x"))
    assert code == 0 and (tmp_path / "x" / "results" / "evaluation.npz").is_file()


def test_a_module_of_ones_own_with_its_labels(tmp_path: Path, capsys: Captured):
    found = decompose(
        Classifier(),
        data=rows(),
        steps=5,
        batch_size=16,
        C=4,
        pictures=False,
        output_loss_type="kl",
        runs_root=tmp_path,
        progress=False,
    )
    result = evaluate(found, data=rows(60), n_eval_steps=4, pgd_n_steps=2)
    assert result.about["batch_size"] == 15
    assert result.about["inputs"] == "inputs that were handed over"
    assert "kl/ci" in result.values and "ce/ci" not in result.values
    assert found.run is not None
    code, _, err = run(capsys, str(found.run.path), *QUICK)
    assert code == 2
    assert err.count("\n") == 1 and "given in memory" in err and "data=..." in err


def test_lists_and_refusals_in_one_line(whole: Whole, tmp_path: Path, capsys: Captured):
    assert "pgd_recon" in run(capsys, "--list")[1]
    folder = str(whole("spd").path)
    for words, told in (
        ([], "takes one run folder, or latest"),
        ([folder, "other"], "not also 'other'"),
        ([str(tmp_path / "none")], "none"),
        ([folder, "--metrics", "ci_lO"], "did you mean ci_l0?"),
        ([folder, "--n_eval_steps", "0"], "n_eval_steps"),
        ([folder, "--n-eval-stps", "2"], "did you mean --n_eval_steps?"),
        ([folder, "--min_recovered", "1.5"], "min_recovered"),
    ):
        code, out, err = run(capsys, *words)
        assert (code, out) == (2, "")
        assert err.count("\n") == 1 and told in err, err
    empty = RunFolder.create(tmp_path / "empty", RunConfig(), kind="decompose-spd").path
    code, _, err = run(capsys, str(empty), "--show")
    assert code == 2 and "not evaluated yet; run `microtome decompose evaluate" in err


def test_features_that_are_labelled_count_next_to_the_target(whole: Whole):
    """Classes are known: cross-entropy takes the place of the distance."""
    from microtome.data.images import ArrayData

    d = evaluate(whole("spd").path, metrics=["recon"], n_eval_steps=2).about
    assert d["distance"] == "mse"
    data = ArrayData(torch.rand(40, 5), torch.arange(40) % 5)
    found = evaluate(whole("spd").path, data=data, metrics=["recon"], n_eval_steps=2)
    assert found.values["ce/target"] and found.values["accuracy/target"]
    assert "cross-entropy" in found.check("all components on").why or found.check("all components on").status


def test_inputs_that_the_network_cannot_run_on_are_told_in_one_line(tmp_path):
    found = microtome.decompose(
        torch.nn.Linear(8, 2), data=rows(), steps=2, batch_size=8, C=3, pictures=False, runs_root=tmp_path
    )
    for ask in (microtome.evaluate, microtome.cluster_components, microtome.component_attributions):
        with pytest.raises(MicrotomeError, match=r"cannot run on torch.float32 of shape \[n, 7\]") as told:
            ask(found, data=torch.zeros(64, 7))
        assert "\n" not in str(told.value)
