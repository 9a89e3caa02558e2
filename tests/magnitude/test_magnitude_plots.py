"""What the pictures show: the numbers that were planted, in the place where they belong."""

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.collections import LineCollection

from microtome.magnitude.config import MagnitudeConfig
from microtome.magnitude.pictures import grid_data, panel_and_scale
from microtome.magnitude.plots import figure_size, unified_grid
from microtome.magnitude.small_multiples import SmallMultiples, block_axes
from microtome.magnitude.sweep import compute


def overview(figure):
    """Title to axes of the overview row."""
    return {ax.get_title("left").split(" (")[0]: ax for ax in figure.axes if ax.get_title("left")}


def curves(ax):
    """The lines of the widest collection: the data."""
    return max(
        (c for c in ax.collections if isinstance(c, LineCollection)), key=lambda c: len(c.get_paths()[0])
    )


def words(figure):
    return [text.get_text() for ax in figure.axes for text in ax.texts]


def test_overview_shows_the_arrays(spd_resid_mlp):
    sweep = compute(spd_resid_mlp, [2], n_steps=41)
    figure = sweep.plot(2, "layers.0.mlp_in")
    row = overview(figure)
    assert list(row) == [
        "Neurons, after the nonlinearity",
        "Outputs",
        "Causal importance",
        "Gate output, before the sigmoid",
        "Gate input",
    ]
    (importance,) = curves(row["Causal importance"]).get_segments()
    np.testing.assert_allclose(importance[:, 0], sweep.magnitudes)
    np.testing.assert_allclose(importance[:, 1], sweep.lower["layers.0.mlp_in"][0, 0, :, 2])
    (gate,) = curves(row["Gate output, before the sigmoid"]).get_segments()
    np.testing.assert_allclose(gate[:, 1], 2 * sweep.magnitudes - 0.5, atol=1e-6)
    neurons = curves(row["Neurons, after the nonlinearity"])
    assert len(neurons.get_segments()) == 6
    np.testing.assert_allclose(
        neurons.get_segments()[2][:, 1], np.maximum(sweep.magnitudes - 1, 0), atol=1e-6
    )
    assert all(ax.get_xlabel() == "input magnitude" and ax.get_ylabel() for ax in row.values())
    # The swept feature's own output lies on top, thick and coloured.
    outputs = curves(row["Outputs"])
    np.testing.assert_allclose(outputs.get_segments()[-1][:, 1], sweep.outputs[0, 0, :, 2])
    assert outputs.get_linewidths()[-1] == max(outputs.get_linewidths()) == 2.0


def test_small_panels_show_the_same_with_their_kind(spd_resid_mlp):
    sweep = compute(spd_resid_mlp, [2], n_steps=41)
    figure = sweep.plot(2, "layers.0.mlp_in")
    shown = words(figure)
    assert "neuron 2: threshold" in shown and "neuron 0: silent" in shown
    assert "component 2: early" in shown
    assert "component 2 early from 0.3" in shown
    assert "1 threshold, 5 silent" not in shown and "5 silent, 1 threshold" in shown
    blocks = [ax for ax in figure.axes if not ax.axison]
    assert len(blocks) == 4  # neurons; importance, gate output and gate input of one component
    lines = max(
        (c for c in blocks[0].collections), key=lambda c: len(c.get_paths()[0].vertices)
    ).get_segments()
    assert len(lines) == 6
    # Neuron 2 rises from magnitude 1, the middle of its panel; all others lie flat.
    risen = [np.ptp(line[:, 1]) > 1e-9 for line in lines]
    assert risen == [i == 2 for i in range(6)]
    begins = lines[2][np.argmax(lines[2][:, 1] > lines[2][0, 1] + 1e-9), 0]
    middle = (lines[2][0, 0] + lines[2][-1, 0]) / 2
    assert begins == pytest.approx(middle, abs=0.06)


def test_colours_are_viridis_and_plasma_by_index(spd_resid_mlp):
    figure = compute(spd_resid_mlp, [2], n_steps=5).plot(2, "layers.0.mlp_in")
    row = overview(figure)
    neurons = curves(row["Neurons, after the nonlinearity"]).get_colors()
    np.testing.assert_allclose(neurons[0], colormaps["viridis"](0.0))
    np.testing.assert_allclose(neurons[-1], colormaps["viridis"](0.9))
    np.testing.assert_allclose(curves(row["Causal importance"]).get_colors()[0], colormaps["plasma"](0.0))


@pytest.mark.parametrize("panel", [(2.0, 1.5), (1.0, 0.8), (3.9, 2.5)])
def test_the_legend_covers_no_data(spd_resid_mlp, panel):
    sweep = compute(spd_resid_mlp, [2], n_steps=5)
    sweep.lower["layers.0.mlp_in"][...] = 0.5  # every component active: the longest legend
    figure = sweep.plot(2, "layers.0.mlp_in", figsize_per_subplot=panel)
    figure.canvas.draw()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    for ax in figure.axes:
        if ax.axison:
            assert not box.overlaps(ax.get_window_extent())
            assert not box.overlaps(ax.title.get_window_extent())
    if panel[0] >= 2:
        assert not box.overlaps(figure._suptitle.get_window_extent())


def test_a_picture_is_as_large_as_foretold(spd_resid_mlp):
    sweep = compute(spd_resid_mlp, [2], n_steps=5)
    for summary_only in (False, True):
        data = grid_data(sweep, MagnitudeConfig(), 2, "layers.0.mlp_in")
        figure = unified_grid(data, feature=2, site="x", summary_only=summary_only)
        assert tuple(figure.get_size_inches()) == figure_size(data, (2.0, 1.5), summary_only)


def test_summary_only_is_the_overview_row(spd_resid_mlp):
    figure = compute(spd_resid_mlp, [2], n_steps=5).plot(2, "layers.0.mlp_in", summary_only=True)
    assert len(figure.axes) == 5


def test_neurons_are_limited_to_those_that_respond_most(spd_resid_mlp):
    sweep = compute(spd_resid_mlp, [2, 4], n_steps=5, max_magnitude=2.0)
    data = grid_data(sweep, MagnitudeConfig(max_neurons=1), 4, "layers.0.mlp_in")
    assert data.neuron_names.tolist() == [4]
    before = grid_data(sweep, MagnitudeConfig(pre_activation=True), 4, "layers.0.mlp_in")
    np.testing.assert_allclose(before.neurons[:, 4], sweep.magnitudes - 1.0, atol=1e-6)
    assert data.components.tolist() == [4]
    assert "Neurons, before the nonlinearity" in overview(
        sweep.plot(4, "layers.0.mlp_in", pre_activation=True)
    )


def test_the_strongest_components_are_drawn_and_the_rest_counted(spd_resid_mlp):
    sweep = compute(spd_resid_mlp, [2], n_steps=5)
    sweep.lower["layers.0.mlp_in"][0, 0, 1:, :8] = np.linspace(0.2, 0.9, 8)
    data = grid_data(sweep, MagnitudeConfig(max_components=3), 2, "layers.0.mlp_in")
    assert data.components.tolist() == [5, 6, 7]
    assert "strongest 3 of 8 drawn" in data.words["causal importances"]


def test_neurons_without_a_nonlinearity_are_not_said_to_have_one(spd_tms):
    sweep = compute(spd_tms, [0], n_steps=5)
    row = overview(sweep.plot(0, "linear1"))
    assert "Neurons" in row and not any("nonlinearity" in title for title in row)
    assert "this layer's outputs are\nno neurons" in words(sweep.plot(0, "linear2"))


def test_components_without_gates_are_drawn_by_what_they_write(apd_tms):
    sweep = compute(apd_tms, [1], n_steps=5)
    figure = sweep.plot(1, "linear1")
    row = overview(figure)
    assert "Component activation" in row and "Causal importance" not in row
    lines = curves(row["Component activation"]).get_segments()
    np.testing.assert_allclose(lines[1][:, 1], sweep.magnitudes, atol=1e-6)
    assert any("left out" in text.get_text() for text in figure.texts)


def test_two_sides_have_a_line_of_words_each(spd_resid_mlp):
    sweep = compute(spd_resid_mlp, [2], n_steps=41, two_sided=True)
    shown = words(sweep.plot(2, "layers.0.mlp_in"))
    assert "above 0: component 2 early from 0.3\nbelow 0: none active" in shown
    assert "neuron 2: silent | threshold" in shown


def test_panels_of_more_than_twice_the_default_are_enlarged():
    assert panel_and_scale((2.0, 1.5)) == ((2.0, 1.5), 1.0)
    panel, scale = panel_and_scale((24.0, 16.0))
    assert panel == pytest.approx((2.25, 1.5))
    assert scale == pytest.approx(16 / 1.5)


def test_points_lie_in_their_panel_and_never_outside():
    from matplotlib.figure import Figure

    ax = block_axes(Figure(figsize=(6, 4)), 0.5, 0.5, 4.0, 2.0)
    small = SmallMultiples(ax, 5, 3, (1.0, 1.0), (0.2, 0.3), (0.0, 2.0), (-1.0, 1.0))
    assert small.rows == 2
    x, y = small.place(
        np.array([0.0, 2.0, 1.0, 9.0]), np.array([-1.0, 1.0, 0.0, 9.0]), np.array([0, 2, 4, 4])
    )
    np.testing.assert_allclose(x, [0.0, 2.8, 1.4, 1.8])
    np.testing.assert_allclose(y, [1.0, 1.7, 0.35, 0.7])
