"""From configuration to files: every flag, and what is said when something is left out."""

import numpy as np
import pytest
from PIL import Image

from microtome.core.errors import MicrotomeError
from microtome.magnitude.config import MagnitudeConfig
from microtome.magnitude.plots import unified_grid
from microtome.magnitude.run import grid_data, panel_and_scale, run
from microtome.magnitude.sweep import compute

SMALL = {"n_steps": 5, "dpi": 30}


def sweep_into(tmp_path, decomposition, **flags):
    notes = []
    config = MagnitudeConfig(output_dir=tmp_path / "out", **(SMALL | flags))
    return run(config, decomposition=decomposition, note=notes.append), notes


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
    files, notes = sweep_into(tmp_path, spd_resid_mlp, feature_idx=3)
    assert [file.name for file in files] == [
        "magnitude.npz",
        "unified_grid_feature_3_layers_0_mlp_in.png",
        "unified_grid_feature_3_layers_0_mlp_out.png",
        "unified_grid_feature_3_layers_1_mlp_in.png",
        "unified_grid_feature_3_layers_1_mlp_out.png",
    ]
    with np.load(files[0]) as stored:
        assert stored["lower/layers.0.mlp_in"].shape == (1, 1, 5, 9)
        assert stored["magnitudes"].tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert notes == []
    again, _ = sweep_into(tmp_path, spd_resid_mlp, feature_idx=4)
    assert again[1].name == "unified_grid_feature_4_layers_0_mlp_in.png"


def test_many_features_are_one_run(tmp_path, spd_tms):
    files, _ = sweep_into(tmp_path, spd_tms, features="all", summary_only=True)
    assert len(files) == 1 + 5 * 2
    assert MagnitudeConfig(features="0, 2,2").chosen_features(5) == [0, 2]
    assert MagnitudeConfig.from_mapping({"features": [1, 4]}).chosen_features(5) == [1, 4]
    assert MagnitudeConfig.from_mapping({"features": 3}).chosen_features(5) == [3]


def test_apd_says_which_panels_are_left_out_and_draws_the_rest(tmp_path, apd_tms):
    files, notes = sweep_into(tmp_path, apd_tms)
    assert len(files) == 3
    assert len(notes) == 1
    assert "causal importances, gate outputs, gate inputs" in notes[0]


def test_a_threshold_that_leaves_nothing_is_said(tmp_path, spd_resid_mlp):
    files, notes = sweep_into(tmp_path, spd_resid_mlp, ci_threshold=1.0)
    assert len(files) == 5
    assert "no causal importance exceeds 1" in notes[0]


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


def test_too_few_steps_are_refused():
    with pytest.raises(MicrotomeError, match="n_steps=1"):
        MagnitudeConfig.from_mapping({"n_steps": 1})


def test_neurons_are_limited_to_those_that_respond_most(spd_resid_mlp):
    sweep = compute(spd_resid_mlp, [2, 4], n_steps=5, max_magnitude=2.0)
    data = grid_data(sweep, MagnitudeConfig(max_neurons=1), 1, "layers.0.mlp_in")
    assert data.neuron_names.tolist() == [4]
    before = grid_data(sweep, MagnitudeConfig(pre_activation=True), 1, "layers.0.mlp_in")
    np.testing.assert_allclose(before.neurons[:, 4], sweep.magnitudes - 1.0, atol=1e-6)
    assert data.components.tolist() == [4]


def test_grid_shows_what_was_planted(spd_resid_mlp):
    config = MagnitudeConfig(n_steps=5)
    sweep = compute(spd_resid_mlp, [2], n_steps=5, max_magnitude=2.0)
    data = grid_data(sweep, config, 0, "layers.0.mlp_in")
    figure = unified_grid(data, feature=2, site="layers.0.mlp_in")
    # Five overview panels, six neurons, and one component in each of the three gate families.
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert len(titles) == 5 + 6 + 3
    assert titles.count("component 2") == 3
    importance = figure.axes[5 + 6]
    np.testing.assert_allclose(importance.lines[0].get_ydata(), sweep.lower["layers.0.mlp_in"][0, 0, :, 2])
    assert importance.get_ylabel() == "causal importance"
    summary = unified_grid(data, feature=2, site="layers.0.mlp_in", summary_only=True)
    assert len(summary.axes) == 5
    assert all(ax.get_xlabel() == "input magnitude" for ax in summary.axes)


def test_large_panels_enlarge_the_type_too(tmp_path, spd_tms):
    assert panel_and_scale((2.0, 1.5)) == ((2.0, 1.5), 1.0)
    panel, scale = panel_and_scale((24.0, 16.0))
    assert panel == pytest.approx((2.25, 1.5))
    assert scale == pytest.approx(16 / 1.5)
    files, notes = sweep_into(tmp_path, spd_tms, figsize_per_subplot=(24, 16), dpi=20, summary_only=True)
    small, _ = sweep_into(tmp_path, spd_tms, figsize_per_subplot=(2.25, 1.5), dpi=20, summary_only=True)
    with Image.open(small[1]) as image:
        default = image.size
    files, notes = sweep_into(tmp_path, spd_tms, figsize_per_subplot=(24, 16), dpi=20, summary_only=True)
    with Image.open(files[1]) as image:
        assert image.size[0] == pytest.approx(default[0] * scale, rel=0.02)
    assert notes == []


def test_neurons_without_a_nonlinearity_are_not_said_to_have_one(spd_tms):
    config = MagnitudeConfig(**SMALL)
    sweep = compute(spd_tms, config.chosen_features(5), config.n_steps, config.max_magnitude)
    for site, nonlinear in (("linear1", False), ("linear2", True)):
        assert grid_data(sweep, config, 0, site).nonlinear is nonlinear
    titles = [
        ax.get_title("left")
        for ax in unified_grid(grid_data(sweep, config, 0, "linear1"), feature=0, site="").axes
    ]
    assert "Neurons" in titles and not any("nonlinearity" in title for title in titles)
