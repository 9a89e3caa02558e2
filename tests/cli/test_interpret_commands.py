"""``interpret``, ``components`` and ``compare-runs`` as typed, on runs of all codes."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "decomposition"))

from old_layouts import write_apd_run, write_later_spd_run, write_spd_paper_run

import microtome
from microtome.cli.main import main
from microtome.core.config import Config
from microtome.core.runs import RunFolder
from microtome.data.images import digits
from microtome.decomposition import decompose as decompose_module
from microtome.decomposition.interpret.compare import compare_runs
from microtome.decomposition.interpret.components import components
from microtome.decomposition.interpret.interpretation import load_interpretation
from microtome.decomposition.interpret.minimality import runs_in
from microtome.decomposition.interpret.run import interpret
from microtome.targets.config import MLPModelConfig
from microtome.targets.mlp import MLP

FEW = ["--n_samples", "200", "--dpi", "40"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of the three old layouts, their mechanisms planted."""
    root = tmp_path_factory.mktemp("runs")
    write_apd_run(root / "apd_tms")
    write_apd_run(root / "apd_resid", "resid_mlp", n_instances=1)
    write_spd_paper_run(root / "paper_tms", n_hidden_layers=1)
    write_later_spd_run(root / "later_tms")
    write_later_spd_run(root / "later_resid", "resid_mlp", n_layers=2)
    return root


@pytest.fixture
def type_words(capsys, monkeypatch, tmp_path):
    """Type a command in an empty folder; its exit code, what it printed, and what it told."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


ONLY = {
    "apd_tms": "tms_mse,scrub_hist,subnet_categories",
    "apd_resid": "resid_mlp_weights,relu_contributions,loss_by_feature,avg_components_scatter",
    "paper_tms": "tms_full_network,tms_hidden_layers,causal_importances",
    "later_tms": "tms_combined_diagram,feature_representation_analysis",
    "later_resid": "neuron_contribution_pairs,feature_response_with_subnets,2d_snr",
}
DRAWN = {
    "apd_tms": {"tms_mse", "scrub_hist", "subnet_categories"},
    "apd_resid": {
        "resid_mlp_weights_1layers",
        "relu_contributions",
        "feature_contributions",
        "loss_by_feature_topk_1",
        "loss_by_feature_batch_topk",
        "avg_components_scatter",
    },
    "paper_tms": {"tms_full_network", "tms_hidden_layers", "causal_importances"},
    "later_tms": {"tms_combined_diagram", "feature_representation_analysis"},
    "later_resid": {
        "neuron_contribution_pairs",
        "feature_response_with_subnets_1",
        "feature_response_with_subnets_3",
        "2d_snr",
    },
}


@pytest.mark.parametrize("name", list(ONLY))
def test_runs_of_the_original_codes_are_interpreted_into_a_folder_of_their_own(runs, type_words, name):
    before = sorted(runs.rglob("*"))
    words = ["interpret", runs / name, "--only", ONLY[name], "--features", "1,3", *FEW]
    code, out, err = type_words(*words, "--quiet")
    assert (code, err) == (0, "")
    (folder,) = Path("runs").iterdir()
    assert folder.name.startswith(f"interpret-{name}-")
    assert {picture.stem for picture in (folder / "plots").iterdir()} == DRAWN[name]
    assert out.count(".png") == len(DRAWN[name])
    assert sorted(runs.rglob("*")) == before
    found = load_interpretation(folder)
    assert found.figures() == ONLY[name].split(",")
    assert "figures" in repr(found._repr_html_()).lower()
    assert set(found.frame().columns) == {"measure", "instance", "value"}
    for picture in (folder / "plots").iterdir():
        picture.unlink()
    assert type_words("interpret", folder, "--redraw", "--only", ONLY[name], *FEW[2:])[0] == 0
    assert len(list((folder / "plots").iterdir())) >= len(ONLY[name].split(",")) - 1


def test_what_was_found_before_stays_when_one_more_figure_is_asked_for(runs, tmp_path):
    where = {"output_dir": tmp_path / "out", "n_samples": 100, "dpi": 40}
    first = interpret(runs / "apd_tms", only=("tms_mse",), **where)
    second = interpret(runs / "apd_tms", only=("scrub_hist",), **where)
    assert {"label_errors", "scrubbing"} <= set(second.numbers)
    assert second.numbers["label_errors"] == first.numbers["label_errors"]
    assert [path.stem for path in second.files] == ["tms_mse", "scrub_hist"]
    again = load_interpretation(tmp_path / "out")
    assert again.numbers == second.numbers and again.plot("tms_mse").axes
    with pytest.raises(microtome.MicrotomeError, match="needs a residual MLP"):
        interpret(runs / "apd_tms", only=("2d_snr", "resid_mlp_weights"), **where).plot("resid_mlp_weights")


def test_a_digit_reader_and_a_run_of_ours(tmp_path):
    images = digits().train
    target = MLP(MLPModelConfig(sizes=(64, 8, 10))).reset(0)
    settings = {"C": 5, "steps": 2, "batch_size": 16, "print_freq": 1, "out_dir": tmp_path / "run"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decompose_module, "draw_all", lambda run: [])
        d = microtome.decompose(target, data=images, **settings)
    assert d.run is not None
    only = ("scrub_hist", "component_activation_statistics", "tms_mse")
    told: list[str] = []
    found = interpret(d.run.path, only=only, n_samples=64, dpi=40, note=told.append)
    assert found.run.path == d.run.path
    assert found.left_out == {"tms_mse": "needs a toy model, whose inputs are features"}
    assert told == ["Left out tms_mse: needs a toy model, whose inputs are features."]
    assert np.isfinite(found.numbers["scrubbing"]["active"]).all()
    report = components(d, n_samples=30, dpi=40, output_dir=tmp_path / "components")
    assert report.sites["layers.0"].strength.shape == (30, 5)


def test_components_are_listed_and_pictured(runs, type_words):
    code, out, err = type_words("components", runs / "paper_tms", "--dpi", "40", "--figsize", "4", "3")
    assert (code, err) == (0, "")
    (folder,) = Path("runs").iterdir()
    assert out.startswith("linear1: 7 components, 5 of them active (causal importance > 0.01)")
    assert "Inputs with exactly 1 components active: 5" in out
    assert {p.name for p in (folder / "component_plots").iterdir()} == {
        f"{site}_{what}.png"
        for site in ("linear1", "hidden_layers_0", "linear2")
        for what in ("component_matrix", "components")
    }
    assert (folder / "activation_plots" / "linear1_activation_pattern.png").is_file()
    assert (folder / "component_matrices.png").is_file()
    saved = torch.load(folder / "linear1_activation_matrix.pt", weights_only=True)
    np.testing.assert_allclose(saved[:5, :5], np.eye(5), atol=1e-6)
    assert json.loads((folder / "components.json").read_text())["linear1"]["dead"] == 2
    hidden = RunFolder.open(folder).load_arrays("activation_matrices")["active/hidden_layers.0"]
    assert hidden.sum(0).tolist()[2:] == [0] * 5


def test_a_component_of_all_inputs_is_broad_and_universal(runs, tmp_path):
    report = components(runs / "apd_tms", threshold=0.0001, dpi=40, output_dir=tmp_path / "a")
    site = report.sites["linear1"]
    loops = [sum(float(v) > 0.0001 for v in site.strength[:, c]) for c in range(7)]
    assert site.active_inputs.tolist() == loops
    assert site.broad == [c for c in range(7) if loops[c] > 2.5]
    assert site.universal == [c for c in range(7) if loops[c] > 4]
    assert site.dead == [5, 6]
    assert sum(site.inputs_by_count.values()) == 5
    assert len(report.frame()) == 14 and "universal" in report._repr_html_()
    assert report.plot("linear2").axes


def test_two_runs_with_the_same_mechanisms_are_found_alike(runs, type_words):
    code, out, err = type_words("compare-runs", runs / "later_tms", runs / "apd_tms", "--dpi", "40")
    assert (code, err) == (0, "")
    assert out.startswith("linear1: 5 alive components, mean largest |cosine| 1.0000 (by chance 0.")
    (folder,) = Path("runs").iterdir()
    found = json.loads((folder / "similarity_results.json").read_text())
    names = ["mean_max_abs_cosine_sim", *(f"max_abs_cosine_sim_{part}" for part in ("std", "min", "max"))]
    assert set(found) == {
        f"{name}/{where}" for name in names for where in ("linear1", "linear2", "all_layers")
    }
    assert found["mean_max_abs_cosine_sim/linear1"] == pytest.approx(1.0, abs=1e-5)
    assert (folder / "plots" / "similarity.png").is_file()


def test_comparison_follows_its_fields(runs, tmp_path):
    where = {"output_dir": tmp_path / "out", "dpi": 40, "n_rotations": 3}
    said: list[str] = []
    turned = compare_runs(runs / "apd_tms", runs / "apd_tms", reference_instance=1, note=said.append, **where)
    assert any("different networks" in line for line in said)
    # The second instance's polygon is turned by 0.3.
    assert turned.similarities["mean_max_abs_cosine_sim/linear1"] == pytest.approx(np.cos(0.3), abs=1e-4)
    frame = turned.frame()
    assert (frame[frame.site == "linear1"].current == frame[frame.site == "linear1"].reference).all()
    assert "by chance" in turned._repr_html_()
    row = turned.summary()["linear1"]
    assert row["alive"] == 5 and 0 < row["chance_mean"] < 1


def test_minimality_coefficients_stand_below_each_other(tmp_path, type_words):
    many = tmp_path / "many"
    for name, coefficient in (("a", 1e-3), ("b", 1e-5)):
        write_spd_paper_run(many / name, config={"importance_minimality_coeff": coefficient})
    code, _, err = type_words("interpret", many / "a", many / "b", "--dpi", "40")
    assert (code, err) == (0, ""), err
    (folder,) = Path("runs").iterdir()
    assert (folder / "plots" / "varying_importance_minimality_coeff.png").is_file()
    assert json.loads((folder / "summary.json").read_text())["importance_minimality_coeff"] == [1e-5, 1e-3]


def test_a_sweep_stands_for_the_decompositions_of_its_trials(tmp_path):
    kinds = {"sweep": "sweep", "sweep/trial_0000": "decompose-spd", "sweep/trial_0001": "decompose-spd"}
    for name, kind in kinds.items():
        RunFolder.create(tmp_path / name, Config(), kind=kind)
    trials = [str(tmp_path / "sweep" / name) for name in ("trial_0000", "trial_0001")]
    assert runs_in([str(tmp_path / "sweep")], tmp_path) == trials
    assert runs_in(trials[:1], tmp_path) == trials[:1]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("interpret", "takes a run folder"),
        ("interpret nowhere", "no such run or file"),
        ("interpret {apd_tms} --only tms_mes", "did you mean tms_mse?"),
        ("interpret {apd_tms} --only resid_mlp_weights", "needs a residual MLP"),
        ("interpret {apd_tms} --instance 2", "choose 0 to 1"),
        ("interpret {apd_tms} --features 0,5", "choose 0 to 4"),
        ("interpret {apd_tms} --features a", "no list of feature numbers"),
        ("interpret {apd_tms} --redraw", "no stored results"),
        ("interpret {apd_tms} --n_samples 3", "greater than or equal to 16"),
        ("interpret {paper_tms} {later_tms} --instance 3", "choose a smaller one"),
        ("interpret {apd_tms} {paper_tms}", "has no importance_minimality_coeff"),
        ("components a b", "takes one run"),
        ("components {apd_tms} --instance 2", "choose 0 to 1"),
        ("compare-runs {apd_tms}", "takes two runs"),
        ("compare-runs {apd_tms} {apd_resid}", "compare decompositions of one target"),
        ("compare-runs {apd_tms} {apd_tms} --reference_instance 5", "choose 0 to 1"),
        ("compare-runs {paper_tms} {paper_tms} --density_threshold 1", "leaves no component alive"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing_behind(runs, type_words, words, line):
    typed = [word.format(**{name: runs / name for name in ONLY}) for word in words.split()]
    code, out, err = type_words(*typed, *(["--quiet"] if typed[0] == "interpret" else []))
    assert (code, out) == (2, "")
    assert err.startswith("microtome: ") and err.count("\n") == 1 and line in err
    assert not Path("runs").exists() or not list(Path("runs").iterdir())


def test_old_names_mean_the_new_commands(type_words):
    from microtome.cli.main import find_command

    assert find_command(["spd/scripts/compare_models/compare_models.py", "x"])[0] == "compare-runs"
    assert find_command(["component_visualization"])[0] == "components"
    for name in ("resid_mlp_interp", "spd_interp", "spd/experiments/tms/plotting.py"):
        assert find_command([name])[0] == "interpret"
    code, out, _ = type_words("interpret", "--list")
    assert code == 0 and "scrub_hist" in out
