"""Analyses of runs, moments, plans, the test of detectors, and their commands."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from original_files import LAYERS, write_run

from microtome.cli.main import main
from microtome.core.errors import CannotLoad, MicrotomeError
from microtome.dynamics.analyse import analyse_run, course_scalars
from microtome.dynamics.convergence import convergence
from microtome.dynamics.critical_periods import critical_periods
from microtome.dynamics.jump_types import jump_types
from microtome.dynamics.moments import CriticalMoment, checkpoint_plan, identify, plan
from microtome.dynamics.results import analyse
from microtome.dynamics.run import DynamicsRun, open_run, open_runs
from microtome.dynamics.validate import validate, validate_ramps


def made_run(n: int = 200, jump: float = 0.0, ramp: float = 0.0, name: str = "made") -> DynamicsRun:
    """Three noisy layers; the jump is at step 1000 in two, the ramp about step 1200 in the accuracy."""
    rng = np.random.default_rng(0)
    steps = 10 * np.arange(n)
    values = 5 + 0.1 * rng.normal(size=(n, 3))
    values[steps >= 1000, :2] += jump
    accuracy = 0.1 + ramp / (1 + np.exp(-2 * np.log(9) * (steps - 1200) / 300)) + 0.005 * rng.normal(size=n)
    scalars = pd.DataFrame(
        {
            "step": steps,
            "loss": 1 + 0.1 * rng.normal(size=n),
            "probe_accuracy": accuracy,
            "epoch": steps // 50,
        }
    )
    measures = {"participation_ratio": values}
    return DynamicsRun(name, Path("nowhere"), steps, ["a", "b", "c"], measures, scalars, {})


def test_a_smooth_run_has_no_transition() -> None:
    analysis = analyse_run(made_run())
    assert analysis.jumps == [] and analysis.ramps == [] and not analysis.found
    assert "No transition" in "\n".join(analyse([made_run()]).told())
    assert identify(made_run(), by=("jump", "ramp", "loss")) == []


def test_jumps_and_ramps_are_found_in_training_steps() -> None:
    analysis = analyse_run(made_run(jump=3, ramp=0.8))
    assert [(jump.step, jump.layer) for jump in analysis.jumps] == [(1000, "a"), (1000, "b")]
    (ramp,) = analysis.ramps
    assert ramp.measure == "probe_accuracy" and ramp.middle == pytest.approx(1200, rel=0.03)


def test_moments_merge_layers_rank_without_units_and_lie_in_order() -> None:
    moments = identify(made_run(jump=3, ramp=0.8), by=("jump", "ramp"))
    assert len(moments) == 6
    by_kind = {moment.moment_type: moment for moment in moments}
    assert by_kind["during_jump"].step == 1000
    assert by_kind["before_jump"].step < 1000 < by_kind["after_jump"].step
    info = by_kind["during_jump"].jump_info
    assert info is not None and sorted(info["layers"]) == ["a", "b"]
    assert info["magnitude"] == pytest.approx(3, abs=0.3) and info["direction"] == "increase"
    assert by_kind["during_ramp"].step == pytest.approx(1200, abs=40)
    strengths = [moment.jump_info["strength"] for moment in moments[::3] if moment.jump_info]
    assert strengths == sorted(strengths, reverse=True)
    assert plan(moments) == sorted({moment.step for moment in moments})
    wide = identify(made_run(jump=3), by=("jump",), span=200)
    assert [moment.step for moment in wide] == [800, 1000, 1200]
    none = identify(made_run(jump=3), by=("jump",), span=0)
    assert [moment.step for moment in none] == [990, 1000, 1010]


def test_plans_have_the_documented_keys() -> None:
    content = checkpoint_plan(identify(made_run(jump=3), by=("jump",)))
    assert set(content["made"]) == {"jumps", "checkpoint_steps"}
    assert content["made"]["jumps"][0]["checkpoints"] == content["made"]["checkpoint_steps"]


@pytest.mark.parametrize(
    ("how", "told"), [({"by": ("jmp",)}, "did you mean jump"), ({"num_jumps": 0}, "take 5")]
)
def test_bad_questions_about_moments(how: dict, told: str) -> None:
    with pytest.raises(MicrotomeError, match=told):
        identify(made_run(), **how)


def test_moments_of_the_documented_kind() -> None:
    moment = CriticalMoment("run", 5, "before_jump")
    assert (moment.experiment_name, moment.step, moment.moment_type, moment.jump_info) == (
        "run",
        5,
        "before_jump",
        None,
    )


def test_scalars_are_averaged_since_the_record_before() -> None:
    run = made_run(n=30)
    every = pd.DataFrame({"step": np.arange(0, 291), "loss": np.arange(0, 291.0)})
    dense = DynamicsRun("dense", run.path, run.steps(), run.layers, run.values, every, {})
    series = course_scalars(dense)["loss"]
    assert series[0] == 0 and series[1] == pytest.approx(np.mean(np.arange(1, 11)))
    assert "epoch" not in course_scalars(run)


def test_convergence_is_in_training_steps_and_in_the_networks_order() -> None:
    time = np.arange(300)
    values = np.stack([np.exp(-time / tau) for tau in (5, 10, 20, 40, 60)])
    found = convergence(time * 10, values, ["n.0", "n.2", "n.10", "n.12", "head"])
    points = list(found["stabilization_points"].values())
    assert points == sorted(points) and points[0] == pytest.approx(10 * 5 * np.log(10), abs=40)
    assert found["convergence_pattern"] == "bottom-up"
    assert found["convergence_correlation"] == pytest.approx(1)
    assert convergence(time, values[::-1], list("abcde"))["convergence_pattern"] == "top-down"
    constant = convergence(time, np.ones((4, 300)), list("abcd"))
    assert constant["convergence_pattern"] == "simultaneous"
    drifting = convergence(time, np.stack([time] * 3).astype(float), list("abc"))
    assert drifting["num_stabilized_layers"] == 0 and drifting["convergence_pattern"] == "unclear"


def test_layers_that_change_apart_are_no_period_and_together_they_are() -> None:
    rng = np.random.default_rng(0)
    steps = np.arange(300) * 5
    apart = rng.normal(size=(10, 300)).cumsum(axis=1)
    assert critical_periods(steps, apart, list("abcdefghij")).periods == []
    together = 0.1 * apart
    together[:, 150:156] += np.arange(6)
    together[:, 156:] += 5
    found = critical_periods(steps, together, list("abcdefghij"), loss=np.linspace(2, 1, 300))
    assert any(period.start <= 760 <= period.end for period in found.periods)
    period = max(found.periods, key=lambda period: period.coordination)
    assert period.coordination == 1 and period.p < 0.05 and period.loss_change < 0
    assert len(critical_periods(steps[:10], apart[:, :10], list("abcdefghij")).periods) == 0


def test_types_do_not_depend_on_units() -> None:
    rng = np.random.default_rng(0)
    phase = np.concatenate([rng.normal(0.1, 0.02, 20), rng.normal(0.8, 0.02, 20)])
    size = np.concatenate([rng.normal(2, 0.1, 20), rng.normal(0.05, 0.005, 20)])
    table = pd.DataFrame(
        {"phase": phase, "magnitude": size, "speed": size / 10, "before": 4.0, "after": 4 + size}
    )
    types = jump_types(table)
    assert types.tolist() == [types[0]] * 20 + [1 - types[0]] * 20
    other = table.assign(**{name: 1e3 * table[name] for name in ("magnitude", "speed", "before", "after")})
    assert jump_types(other).tolist() == types.tolist()
    assert jump_types(table[:5]).tolist() == [0] * 5


def test_the_default_analysis_writes_documented_tables_and_warns(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    for seed in range(2):
        write_run(folder, f"run_{seed}", seed, zipped=bool(seed))
    out = tmp_path / "out"
    assert main(["dynamics", "analyze", str(folder), "--output-dir", str(out)]) == 0
    said = capsys.readouterr().out
    assert "stable_rank is degenerate" in said and "stable_rank: 0 jumps, 0 ramps" in said
    jumps = pd.read_csv(out / "step1_2" / "all_jumps_detailed.csv")
    planted = jumps[jumps["measure"] == "participation_ratio_singular_values"]
    assert set(planted["layer"]) == {LAYERS[1], LAYERS[3]} and set(planted["step"]) == {230}
    assert set(jumps["phase_category"]) == {"mid"} and (jumps["measure"] != "stable_rank").all()
    periods = pd.read_csv(out / "step1_3" / "critical_periods_detailed.csv")
    assert list(periods.columns[:9]) == [
        "experiment",
        "arch_name",
        "dataset",
        "total_critical_steps",
        "total_transitions",
        "num_coordinated_periods",
        "max_coordination",
        "mean_coordination",
        "loss_correlation",
    ]
    entries = json.loads((out / "step1_1" / "convergence_analysis_summary.json").read_text())
    assert list(entries[0]["stabilization_points"]) == list(LAYERS)
    pictures = {path.name for path in out.rglob("*.png")}
    assert {"run_0_heatmap.png", "run_0_transitions.png", "jump_characterization_overview.png"} <= pictures


def test_runs_are_opened_and_refused_in_one_line(tmp_path: Path) -> None:
    path = write_run(tmp_path, "old", 0)
    run = open_run(path)
    assert "participation_ratio_singular_values" in run.measures and run.architecture == "mlp_small"
    assert run.checkpoint_steps() == [] and run.model() is None and run.original
    steps, values = run.series("fc1", "nuclear_norm_ratio")
    assert steps[1] == 5 and len(values) == 90
    table = run.table()
    assert len(table) == 90 * len(LAYERS) and table["layer"].iloc[3] == "fc1"
    assert [run.name for run in open_runs(tmp_path)] == ["old"]
    for ask, told in (
        (lambda: run.series("fc", "stable_rank"), "did you mean fc1"),
        (lambda: run.checkpoint(5), "no model states"),
        (lambda: run.probe(), "no probe"),
    ):
        with pytest.raises(MicrotomeError, match=told):
            ask()
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(CannotLoad, match="neither recordings nor"):
        open_runs(empty)


def test_gaps_and_short_runs_are_told(tmp_path: Path) -> None:
    run = made_run(jump=3)
    run.values["participation_ratio"][5, 2] = np.nan
    analysis = analyse_run(run)
    assert any("not finite everywhere in c" in text for text in analysis.warnings)
    assert len(analysis.jumps) == 2
    short = analyse([made_run(n=10)])
    assert "Too few records" in short.told()[-2] and "10 records" in short.warnings[0]
    none = made_run(n=0)
    assert "holds no records" in analyse([none]).warnings[0]
    analyse([none, made_run(n=1)]).write(tmp_path)
    with pytest.raises(MicrotomeError, match="did you mean participation_ratio"):
        analyse_run(made_run(), ["participation_ration"])


def test_validate_tells_good_detectors_from_bad_ones() -> None:
    good = validate(seeds=4)
    assert good.recall >= 0.9 and good.false_positives <= 0.25 and "VALID" in good.told()[-1]
    bad = validate("zscore", seeds=2)
    assert not bad.valid and bad.false_positives > 10
    blind = validate(lambda series: [], seeds=2)
    assert not blind.valid and blind.recall == 0 and blind.false_positives == 0
    assert validate_ramps(seeds=3).recall >= 0.6


def test_commands(tmp_path: Path, capsys, monkeypatch) -> None:
    path = write_run(tmp_path, "old", 0)
    assert main(["dynamics", "moments", str(path), "--plan", str(tmp_path / "plan.json")]) == 0
    assert "at step 230" in capsys.readouterr().out
    assert "old" in json.loads((tmp_path / "plan.json").read_text())
    assert main(["dynamics", "validate", "--method", "zscore", "--seeds", "2"]) == 1
    assert "NOT VALID" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def nothing(series):\n    return []\n")
    assert main(["dynamics", "validate", "--method", "mine:nothing", "--seeds", "1"]) == 1
    capsys.readouterr()
    for words, told in (
        (["dynamics", "analyse"], "takes one run or folder"),
        (["dynamics", "analyze", "nowhere"], "no such run or file"),
        (["dynamics", "analyze", str(path), "--method", "nothing.here:at_all"], "cannot be imported"),
        (["dynamics", "validate", "--seeds", "0"], "take 40"),
        (["dynamics", "moments", str(path), "--by", "jmp"], "did you mean jump"),
        (["dynamics", "momments"], "did you mean moments"),
        (["dynamics", "analyze", str(tmp_path), "--as-original", "--method", "zscore"], "its own detector"),
    ):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert told in error and error.count("\n") == 1
