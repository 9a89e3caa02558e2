"""The common look: isolated settings, honest scales, readable ticks."""

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from microtome.plotting import style
from microtome.plotting.networks import draw_network, draw_polygon


def test_drawing_leaves_matplotlib_settings_alone():
    before = dict(matplotlib.rcParams)
    figure, _ = style.panels(2, 3)
    assert dict(matplotlib.rcParams) == before
    assert len(figure.axes) == 6
    seen = {}

    @style.styled
    def failing():
        seen["size"] = matplotlib.rcParams["axes.labelsize"]
        raise RuntimeError

    with pytest.raises(RuntimeError):
        failing()
    assert seen["size"] == style.RC["axes.labelsize"]
    assert dict(matplotlib.rcParams) == before


def test_no_figure_is_registered_with_pyplot():
    from matplotlib import pyplot

    style.panels(1, 1)
    assert pyplot.get_fignums() == []


@given(st.integers(1, 60), st.integers(1, 12))
def test_grid_holds_all_panels_without_an_empty_row(n, most):
    rows, columns = style.grid_shape(n, most)
    assert columns <= most
    assert (rows - 1) * columns < n <= rows * columns


@given(st.integers(1, 100_000), st.integers(2, 20))
def test_integer_ticks_are_few_and_in_range(n, most):
    ticks = style.integer_ticks(n, most)
    assert 1 <= len(ticks) <= most
    assert ticks[0] == 0 and ticks[-1] < n


def test_signed_heatmaps_are_symmetric_about_zero():
    figure, axes = style.panels()
    image = style.heatmap(axes[0, 0], np.array([[1.0, -3.0]]), signed=True, scale_label="weight")
    assert image.get_clim() == (-3.0, 3.0)
    assert image.cmap(0.5)[:3] == pytest.approx((0.97, 0.97, 0.97), abs=0.02)
    assert len(figure.axes) == 2 and figure.axes[1].get_ylabel() == "weight"
    unsigned = style.heatmap(style.panels()[1][0, 0], np.array([[0.2, 0.4]]))
    assert unsigned.get_clim() == (0.0, 0.4)


@pytest.mark.parametrize("values", [np.zeros((2, 2)), np.full((2, 2), np.nan), np.empty((0, 0))])
def test_limits_of_nothing_are_one(values):
    assert style.symmetric_limit(values) == 1.0


def luminance(rgb):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("shade", style.PALETTE)
def test_palette_stands_out_from_white(shade):
    """At least 2 to 1 against the page (graphics; text is drawn in ink)."""
    assert 1.05 / (luminance(matplotlib.colors.to_rgb(shade)) + 0.05) > 2.0


# Machado et al. (2009), severity 1.
DEUTERANOPIA = [
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.011820, 0.042940, 0.968881],
]
PROTANOPIA = [
    [0.152286, 1.052583, -0.204868],
    [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
]


@pytest.mark.parametrize("simulate", [DEUTERANOPIA, PROTANOPIA], ids=["deuteranopia", "protanopia"])
def test_palette_is_told_apart_by_colour_blind_readers(simulate):
    seen = [np.array(simulate) @ np.array(matplotlib.colors.to_rgb(shade)) for shade in style.PALETTE]
    for i, first in enumerate(seen):
        for second in seen[:i]:
            assert np.linalg.norm(first - second) > 0.18


def test_polygon_draws_each_vector_from_the_origin():
    vectors = np.array([[1.0, 0.0], [0.0, 2.0]])
    ax = style.panels()[1][0, 0]
    draw_polygon(ax, vectors, labels=True)
    arrows = [line for line in ax.lines if len(line.get_xdata()) == 2 and line.get_lw() == 2.0]
    tips = [(line.get_xdata()[1], line.get_ydata()[1]) for line in arrows]
    assert tips == [(1.0, 0.0), (0.0, 2.0)]
    assert [text.get_text() for text in ax.texts] == ["0", "1"]
    assert ax.get_xlim()[1] > 2.0


def test_network_draws_one_edge_a_weight_that_is_not_zero_and_dashes_the_negative():
    weight = np.array([[1.0, 0.0], [-0.5, 0.0], [0.0, 0.25]])
    ax = style.panels()[1][0, 0]
    draw_network(ax, [weight, weight.T], limit=1.0)
    assert len(ax.lines) == 6
    assert sum(line.is_dashed() for line in ax.lines) == 2
    widest = max(ax.lines, key=lambda line: line.get_lw())
    assert widest.get_lw() == pytest.approx(2.8)


def test_numbers_outside_the_panel_take_no_room():
    figure, axes = style.panels()
    draw_polygon(axes[0, 0], np.array([[9.0, 0.0]]), limit=1.0, labels=True)
    figure.draw_without_rendering()
    assert axes[0, 0].get_position().width > 0.5
    assert all(text.get_clip_on() for text in axes[0, 0].texts)
