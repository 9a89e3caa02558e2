"""All features and magnitudes: numbers against a loop, pictures against what was planted."""

import csv

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection
from PIL import Image

from microtome.core.errors import CannotLoad, MicrotomeError
from microtome.core.runs import RunFolder
from microtome.magnitude import importance_plots
from microtome.magnitude.config import ImportanceConfig
from microtome.magnitude.importance import compute, load
from microtome.magnitude.importance_plots import grid_size, importance_grid, onset_map, panel_for
from microtome.magnitude.importance_run import redraw, run

SMALL = {"n_steps": 11, "max_magnitude": 2.0, "dpi": 30}


def importances_into(tmp_path, decomposition, **flags):
    notes = []
    config = ImportanceConfig(output_dir=tmp_path / "out", **(SMALL | flags))
    return run(config, decomposition=decomposition, note=notes.append), notes


@pytest.mark.parametrize("kind", ["spd_tms", "sharp_tms", "spd_resid_mlp", "spd_module"])
def test_equals_a_loop_over_features_and_magnitudes(kind, request):
    d = request.getfixturevalue(kind)
    sweep = compute(d, n_steps=4, max_magnitude=1.5)
    n = len(sweep.features)
    assert sweep.features.tolist() == list(range(n))
    assert set(sweep.sites) == set(d.sites)
    for feature in range(n):
        for s, magnitude in enumerate(np.linspace(0, 1.5, 4)):
            x = torch.zeros(d.n_instances, 1, n)
            x[..., feature] = magnitude
            for site, ci in (d.causal_importances(x) or {}).items():
                np.testing.assert_allclose(
                    sweep.lower[site][:, feature, s], ci.lower[:, 0].numpy(), atol=1e-6, rtol=1e-6
                )


def test_onsets_are_where_the_gates_open(spd_resid_mlp):
    """Component c opens for feature c at h = 1/4 and exceeds 0.1 at h = 0.3."""
    sweep = compute(spd_resid_mlp, n_steps=201, max_magnitude=2.0)
    onsets = sweep.onsets("layers.0.mlp_in", 0.1)[0]
    np.testing.assert_allclose(np.diag(onsets), 0.3, atol=1e-5)
    assert np.isnan(onsets[~np.eye(6, 9, dtype=bool)]).all()
    np.testing.assert_allclose(np.diag(sweep.onsets("layers.0.mlp_out", 0.1)[0]), 1.3, atol=1e-5)
    with pytest.raises(MicrotomeError, match="side=-1: was not swept"):
        sweep.onsets("layers.0.mlp_in", 0.1, side=-1)
    both = compute(spd_resid_mlp, n_steps=401, max_magnitude=2.0, two_sided=True)
    assert np.isnan(both.onsets("layers.0.mlp_in", 0.1, side=-1)).all()
    np.testing.assert_allclose(np.diag(both.onsets("layers.0.mlp_in", 0.1)[0]), 0.3, atol=1e-5)


def test_files_have_their_documented_names(tmp_path, spd_resid_mlp):
    made, notes = importances_into(tmp_path, spd_resid_mlp)
    names = [file.name for file in made.files]
    assert names[:2] == ["importance.npz", "importances.csv"]
    assert "layers_0_mlp_in_causal_importance_sweep.png" in names and "layers_0_mlp_in_onsets.png" in names
    assert len(names) == 2 + 2 * 4 and notes == []
    rows = list(csv.DictReader(made.files[1].read_text().splitlines()))
    first = [row for row in rows if row["site"] == "layers.0.mlp_in"]
    assert [(row["feature"], row["index"], row["kind"]) for row in first] == [
        (str(f), str(f), "early") for f in range(6)
    ]
    summary = RunFolder.open(made.folder).summary
    assert summary["components"][0] == {
        "site": "layers.0.mlp_in",
        "components": 9,
        "turning_on": 6,
        "features_with_a_component": 6,
        "components_a_feature": 1.0,
        "median_onset": pytest.approx(0.3, abs=0.04),
        "early": 6,
    }
    assert "6 of 9 components turn on, for 6 features" in made.lines[0]
    again = load(made.folder)
    with np.load(made.files[0]) as stored:
        np.testing.assert_array_equal(stored["lower/layers.0.mlp_in"], again.lower["layers.0.mlp_in"])
        assert stored["onset/layers.0.mlp_in"].shape == (1, 6, 9)
    before = made.files[0].stat().st_mtime_ns
    drawn = redraw(RunFolder.open(made.folder), ImportanceConfig(dpi=40))
    assert set(drawn.files) == set(made.files[1:]) and made.files[0].stat().st_mtime_ns == before


def test_old_settings_are_understood(tmp_path, spd_tms):
    made, notes = importances_into(tmp_path, spd_tms, feature_idx=0, figsize=(12, 8))
    assert len(notes) == 1 and "every feature is drawn" in notes[0]
    with Image.open(made.files[2]) as image:
        assert image.size == (360, 240)
    assert panel_for(100, grid_size(100, (1.3, 0.9))) == pytest.approx((1.3, 0.9))


def test_without_gates_there_is_nothing_to_sweep(tmp_path, apd_tms, spd_tms):
    with pytest.raises(CannotLoad, match=r"without gates \(apd\).*microtome magnitude"):
        importances_into(tmp_path, apd_tms)
    with pytest.raises(MicrotomeError, match=r"feature_idx=9.*0 to 4"):
        importances_into(tmp_path, spd_tms, feature_idx=9)
    assert not (tmp_path / "out").exists()


def lines(ax):
    found = [c for c in ax.collections if isinstance(c, LineCollection) and c.get_paths()]
    return [c for c in found if len(c.get_paths()[0].vertices) > 4]


def test_every_component_has_a_line_and_active_ones_a_colour(spd_resid_mlp):
    sweep = compute(spd_resid_mlp, n_steps=11, max_magnitude=2.0)
    figure = sweep.plot("layers.0.mlp_in")
    block = figure.axes[0]
    grey, coloured = lines(block)
    assert len(grey.get_segments()) == 6 * 9 - 6 and len(coloured.get_segments()) == 6
    titles = [text.get_text() for text in block.texts if text.get_text().startswith("input")]
    assert titles == [f"input {f}: {f}" for f in range(6)]
    assert block.texts[-1].get_text() == "magnitude"
    ticks = {text.get_text() for text in block.texts}
    assert {"0", "1", "2"} <= ticks  # the magnitudes that were swept, not 0 to 1


def test_many_idle_components_are_drawn_as_the_band_they_fill(monkeypatch):
    monkeypatch.setattr(importance_plots, "MANY_LINES", 10)
    values = np.zeros((3, 5, 20))
    values[:, :, 3] = np.linspace(0, 0.09, 5)
    values[1, :, 7] = 1.0
    figure = importance_grid(np.linspace(0, 1, 5), values, np.arange(3), site="a")
    (band,) = [c for c in figure.axes[0].collections if type(c).__name__ == "PolyCollection"]
    assert len(band.get_paths()) == 3
    (coloured,) = lines(figure.axes[0])
    assert len(coloured.get_segments()) == 1


def test_the_map_puts_one_component_a_feature_on_the_diagonal():
    onsets = np.full((3, 6), np.nan)
    onsets[0, 4], onsets[1, 1], onsets[2, 5], onsets[2, 4] = 0.2, 0.3, 0.4, 0.9
    figure = onset_map(onsets, np.array([10, 20, 30]), site="linear1")
    (image,) = figure.axes[0].images
    np.testing.assert_array_equal(image.get_array().filled(np.nan), onsets[:, [4, 1, 5]])
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["4", "1", "5"]
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["10", "20", "30"]
    assert "3 components that never do are left out" in figure.axes[0].texts[0].get_text()
    empty = onset_map(np.full((3, 6), np.nan), np.arange(3), site="linear1")
    assert "no component turns on" in [t.get_text() for t in empty.axes[0].texts]


def test_frame_lists_what_is_active(spd_tms, spd_resid_mlp):
    frame = compute(spd_resid_mlp, n_steps=21, max_magnitude=2.0).frame()
    assert set(frame["kind"]) <= {"early", "late"} and len(frame) == 6 * 4
    assert "family" not in frame
    sweep = compute(spd_tms, [0], n_steps=3)
    assert "<table>" in sweep._repr_html_()
    with pytest.raises(MicrotomeError, match=r"site='x'.*linear1, linear2"):
        sweep.plot("x")
