"""From configuration to files: every flag, and what is said when something is left out."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from microtome.core.errors import CannotLoad, MicrotomeError
from microtome.core.runs import RunFolder
from microtome.magnitude import pictures
from microtome.magnitude.config import MagnitudeConfig
from microtome.magnitude.result import load
from microtome.magnitude.run import redraw, run
from microtome.magnitude.sweep import compute

SMALL = {"n_steps": 21, "dpi": 30}


@pytest.fixture
def undrawn(monkeypatch):
    """Pictures by name only: what they show has tests of its own."""
    monkeypatch.setattr(
        pictures, "draw", lambda folder, picture: (Path(folder) / f"{picture.name}.png").touch()
    )


def sweep_into(tmp_path, decomposition, processes=1, **flags):
    notes = []
    config = MagnitudeConfig(output_dir=tmp_path / "out", **(SMALL | flags))
    return run(config, decomposition=decomposition, note=notes.append, processes=processes), notes


def test_defaults_are_the_documented_ones():
    config = MagnitudeConfig()
    documented = {
        "feature_idx": 0,
        "n_steps": 100,
        "max_magnitude": 2.0,
        "figsize_per_subplot": (2.0, 1.5),
        "dpi": 150,
        "ci_threshold": 0.1,
        "pre_activation": False,
        "device": "auto",
    }
    assert {name: getattr(config, name) for name in documented} == documented


def test_writes_one_grid_a_site_under_the_documented_name_and_every_array(tmp_path, spd_resid_mlp):
    made, notes = sweep_into(tmp_path, spd_resid_mlp, feature_idx=3)
    assert [file.name for file in made.files] == [
        "magnitude.npz",
        "responses.csv",
        "unified_grid_feature_3_layers_0_mlp_in.png",
        "unified_grid_feature_3_layers_0_mlp_out.png",
        "unified_grid_feature_3_layers_1_mlp_in.png",
        "unified_grid_feature_3_layers_1_mlp_out.png",
    ]
    assert all(file.is_file() for file in made.files)
    with np.load(made.files[0]) as stored:
        assert stored["lower/layers.0.mlp_in"].shape == (1, 1, 21, 9)
        assert stored["magnitudes"][[0, -1]].tolist() == [0.0, 2.0]
    assert notes == []
    again, _ = sweep_into(tmp_path, spd_resid_mlp, feature_idx=4)
    assert again.files[2].name == "unified_grid_feature_4_layers_0_mlp_in.png"


@pytest.mark.usefixtures("undrawn")
def test_the_table_and_the_summary_say_what_was_planted(tmp_path, spd_resid_mlp):
    """Neuron f is relu(m - 1); component f opens from h = 1/4 on, exceeds 0.1 at h = 0.3."""
    made, _ = sweep_into(tmp_path, spd_resid_mlp, feature_idx=3, n_steps=101)
    rows = list(csv.DictReader(made.files[1].read_text().splitlines()))
    (neuron,) = [
        r
        for r in rows
        if r["family"] == "neurons" and r["site"] == "layers.0.mlp_in" and r["kind"] != "silent"
    ]
    assert (neuron["index"], neuron["kind"]) == ("3", "threshold")
    assert float(neuron["onset"]) == pytest.approx(1.0, abs=0.01)
    active = {
        r["site"]: r for r in rows if r["family"] == "causal importances" and r["kind"] != "never active"
    }
    assert {site: row["index"] for site, row in active.items()} == {
        "layers.0.mlp_in": "3",
        "layers.0.mlp_out": "3",
        "layers.1.mlp_in": "3",
        "layers.1.mlp_out": "3",
    }
    assert float(active["layers.0.mlp_in"]["onset"]) == pytest.approx(0.3, abs=1e-3)
    assert active["layers.0.mlp_in"]["kind"] == "early"
    # layers.0.mlp_out reads relu(m - 1): 0.3 at m = 1.3.
    assert float(active["layers.0.mlp_out"]["onset"]) == pytest.approx(1.3, abs=1e-3)
    assert active["layers.0.mlp_out"]["kind"] == "late"
    summary = RunFolder.open(made.folder).summary
    assert summary["responses"]["layers.0.mlp_in"]["neurons"] == {"threshold": 1, "silent": 5}
    assert summary["responses"]["layers.0.mlp_out"]["causal importances"] == {"late": 1, "never active": 8}
    (component,) = [r for r in summary["active_components"] if r["site"] == "layers.0.mlp_in"]
    assert (component["component"], component["kind"]) == (3, "early")
    said = "\n".join(made.lines)
    assert "layers.0.mlp_in   neurons             1 threshold, 5 silent" in said
    assert "feature 3, layers.0.mlp_out: component 3 late" in said


@pytest.mark.usefixtures("undrawn")
def test_both_sides_are_told_apart(tmp_path, spd_resid_mlp):
    """The planted neurons and gates answer to positive inputs alone."""
    made, _ = sweep_into(tmp_path, spd_resid_mlp, two_sided=True, n_steps=101)
    rows = list(csv.DictReader(made.files[1].read_text().splitlines()))
    active = [r for r in rows if r["family"] == "causal importances" and r["kind"] != "never active"]
    assert {r["side"] for r in active} == {"1"}
    outputs = {r["side"]: r for r in rows if r["family"] == "outputs" and r["index"] == "0"}
    assert outputs["-1"]["kind"] == "linear"
    assert float(outputs["-1"]["slope"]) == pytest.approx(1.0, abs=1e-5)
    assert outputs["1"]["kind"] == "curved" or float(outputs["1"]["slope"]) > 1.2


@pytest.mark.usefixtures("undrawn")
def test_many_features_are_one_run(tmp_path, spd_tms):
    made, _ = sweep_into(tmp_path, spd_tms, features="all", summary_only=True)
    assert len(made.files) == 2 + 5 * 2
    assert MagnitudeConfig(features="0, 2,2").chosen_features(5) == [0, 2]
    assert MagnitudeConfig.from_mapping({"features": [1, 4]}).chosen_features(5) == [1, 4]
    assert MagnitudeConfig.from_mapping({"features": 3}).chosen_features(5) == [3]


@pytest.mark.slow
def test_many_pictures_are_drawn_by_several_processes(tmp_path, spd_resid_mlp):
    made, _ = sweep_into(tmp_path, spd_resid_mlp, features="all", summary_only=True, processes=2)
    assert len(made.files) == 2 + 6 * 4
    alone, _ = sweep_into(tmp_path / "alone", spd_resid_mlp, features="all", summary_only=True)
    for ours, theirs in zip(made.files[2:], alone.files[2:], strict=True):
        assert ours.read_bytes() == theirs.read_bytes()


def test_apd_says_which_panels_are_left_out_and_draws_the_rest(tmp_path, apd_tms):
    made, notes = sweep_into(tmp_path, apd_tms)
    assert len(made.files) == 4
    assert len(notes) == 1 and "\n" not in notes[0]
    assert "causal importances, gate outputs, gate inputs" in notes[0]
    assert "component activations" in "\n".join(made.lines)


@pytest.mark.usefixtures("undrawn")
def test_a_threshold_that_leaves_nothing_is_said(tmp_path, spd_resid_mlp):
    made, notes = sweep_into(tmp_path, spd_resid_mlp, ci_threshold=1.0)
    assert len(made.files) == 6
    assert "no causal importance exceeds 1" in notes[0]
    _, notes = sweep_into(
        tmp_path / "all", spd_resid_mlp, ci_threshold=1.0, features="0,1", summary_only=True
    )
    assert len(notes) == 6 and "3 more" in notes[-1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"feature_idx": 6}, r"feature_idx=6.*0 to 5"),
        ({"features": "0,9"}, r"features=9.*0 to 5"),
        ({"features": "a,b"}, r"features='a,b'.*0,5,10"),
        ({"instance": 1}, r"instance=1.*0 to 0"),
    ],
)
def test_bad_values_are_one_line_and_leave_nothing(tmp_path, spd_resid_mlp, flags, message):
    with pytest.raises(MicrotomeError, match=message) as caught:
        sweep_into(tmp_path, spd_resid_mlp, **flags)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_run_of_another_kind_is_left_alone(tmp_path, spd_tms):
    RunFolder.create(tmp_path / "run", MagnitudeConfig(), kind="decompose-spd")
    before = {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()}
    with pytest.raises(MicrotomeError, match=r"output_dir='.*run'.*choose another --output_dir"):
        run(MagnitudeConfig(output_dir=tmp_path / "run"), decomposition=spd_tms)
    assert {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()} == before


def test_too_few_steps_are_refused():
    with pytest.raises(MicrotomeError, match="n_steps=1"):
        MagnitudeConfig.from_mapping({"n_steps": 1})


def test_large_panels_enlarge_the_type_too(tmp_path, spd_tms):
    def picture(where, size):
        made, notes = sweep_into(
            tmp_path / where, spd_tms, figsize_per_subplot=size, dpi=20, summary_only=True, n_steps=5
        )
        assert notes == []
        with Image.open(made.files[2]) as image:
            return np.array(image.size)

    np.testing.assert_allclose(
        picture("large", (24, 16)), picture("small", (2.25, 1.5)) * 16 / 1.5, rtol=0.02
    )


# -- What was swept is a result of its own


@pytest.mark.usefixtures("undrawn")
def test_a_finished_sweep_is_loaded_in_one_call_and_drawn_again(tmp_path, spd_resid_mlp):
    made, _ = sweep_into(tmp_path, spd_resid_mlp, features="1,3", n_steps=11)
    again = load(made.folder)
    fresh = compute(spd_resid_mlp, [1, 3], n_steps=11)
    assert again.sites == fresh.sites and again.method == fresh.method
    assert again.arrays().keys() == fresh.arrays().keys()
    for name, values in fresh.arrays().items():
        np.testing.assert_array_equal(again.arrays()[name], values)
    before = {file: file.stat().st_mtime_ns for file in made.files}
    drawn = redraw(
        RunFolder.open(made.folder),
        MagnitudeConfig(dpi=40, ci_threshold=0.9, summary_only=True),
        note=lambda _: None,
    )
    assert made.files[0] not in drawn.files and made.files[0].stat().st_mtime_ns == before[made.files[0]]
    assert set(drawn.files) == set(made.files[1:])
    assert all(file.stat().st_mtime_ns > before[file] for file in drawn.files)
    assert json.loads((made.folder / "summary.json").read_text())["features"] == [1, 3]


def test_frames_are_tidy(spd_tms):
    sweep = compute(spd_tms, [0, 4], n_steps=3)
    frame = sweep.frame(feature=4, site="linear1", kinds=["lower"], instance=1)
    assert list(frame.columns) == ["feature", "site", "kind", "index", "magnitude", "value"]
    assert len(frame) == 3 * 8 and set(frame["feature"]) == {4}
    row = frame[(frame["index"] == 4) & (frame["magnitude"] == 2.0)]
    assert row["value"].item() == sweep.lower["linear1"][1, 1, 2, 4]
    everything = sweep.frame()
    assert set(everything["kind"]) == {
        "outputs",
        "pre",
        "post",
        "gate_inputs",
        "gate_outputs",
        "lower",
        "upper",
    }
    assert not sweep.frame(kinds=["activations"]).size
    assert "<table>" in sweep._repr_html_() and "2 features" in sweep._repr_html_()


def test_what_was_not_swept_is_refused(spd_tms, tmp_path):
    sweep = compute(spd_tms, [0, 4], n_steps=3)
    with pytest.raises(MicrotomeError, match=r"feature=3: was not swept; those that were: 0, 4"):
        sweep.plot(3)
    with pytest.raises(MicrotomeError, match=r"site='linear9'.*linear1, linear2"):
        sweep.plot(4, "linear9")
    with pytest.raises(MicrotomeError, match="max_neuron"):
        sweep.plot(4, max_neuron=3)
    with pytest.raises(CannotLoad):
        load(tmp_path)


def test_a_run_of_another_kind_is_refused(tmp_path):
    RunFolder.create(tmp_path / "other", MagnitudeConfig(), kind="train-tms")
    with pytest.raises(CannotLoad, match="a train-tms run, not a magnitude sweep"):
        load(tmp_path / "other")


def test_an_empty_list_of_features_is_refused() -> None:
    with pytest.raises(MicrotomeError, match="is no list of feature numbers"):
        MagnitudeConfig(features="").chosen_features(5)
