"""Every figure of a decomposition shows what was planted in its arrays."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from microtome.decomposition import plots


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def pentagon():
    angle = 2 * np.pi * np.arange(5) / 5
    rows = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    parts = np.zeros((5, 5, 2))
    parts[range(5), range(5)] = rows
    return rows, parts


def images_of(figure):
    return [image for ax in figure.axes for image in ax.get_images()]


def drawn(figure):
    """Lay the figure out as saving does: text that cannot be placed would warn, which is an error."""
    figure.draw_without_rendering()
    return figure


def test_combined_diagram_has_a_panel_for_target_sum_and_each_component():
    rows, parts = pentagon()
    figure = drawn(plots.tms_combined_diagram(rows, parts.sum(0), parts, left_out="nothing"))
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert titles == ["Target model", "Sum of components", *(f"Component {c}" for c in range(5))]
    assert len(figure.axes) == 14
    polygon = next(ax for ax in figure.axes if ax.get_title() == "Component 3")
    long = [line for line in polygon.lines if line.get_lw() == 2.0 and np.ptp(line.get_xdata()) > 0.1]
    assert len(long) == 1
    assert (long[0].get_xdata()[1], long[0].get_ydata()[1]) == pytest.approx(tuple(rows[3]))
    assert [text.get_text() for text in polygon.texts] == ["3"]
    assert "nothing" in figure.get_supxlabel()


def test_combined_diagram_without_a_plane_draws_networks_only(rng):
    rows = rng.normal(size=(6, 3))
    figure = drawn(plots.tms_combined_diagram(rows, rows, rows[None]))
    assert len(figure.axes) == 3
    assert plots.can_draw_diagram(6, 3) and plots.can_draw_diagram(100, 2)
    assert not plots.can_draw_diagram(40, 10)


def test_causal_importances_keep_values_names_and_scale(rng):
    values = {"linear1": rng.random((5, 7)), "linear2": rng.random((5, 3))}
    figure = drawn(
        plots.causal_importances(
            values,
            component_names={"linear1": list("abcdefg"), "linear2": list("xyz")},
            totals={"linear1": 7, "linear2": 9},
        )
    )
    first = images_of(figure)[0]
    second = next(image for image in images_of(figure) if image.get_array().shape == (5, 3))
    np.testing.assert_array_equal(first.get_array(), values["linear1"])
    assert first.get_clim() == (0.0, 1.0)
    assert second.axes.get_xlabel() == "component (3 of 9 shown)"
    assert [label.get_text() for label in second.axes.get_xticklabels()] == ["x", "y", "z"]


def test_loss_curves_show_mean_and_seeds_and_say_when_all_is_zero(rng):
    values = rng.random((6, 3)) + 0.1
    figure = drawn(
        plots.loss_curves(
            np.arange(6.0), {"total": values, "schatten_norm": np.zeros((6, 1)), "late": values[:, :1]}
        )
    )
    total, zero, late = figure.axes
    assert len(total.lines) == 4
    np.testing.assert_allclose(total.lines[-1].get_ydata(), values.mean(axis=1))
    assert total.get_yscale() == "log"
    assert zero.get_title(loc="left") == "schatten norm"
    assert [text.get_text() for text in zero.texts] == ["0 throughout"]
    assert len(late.lines) == 1


def test_counts_of_components_are_drawn_from_zero_on_a_plain_axis():
    axes = drawn(plots.loss_curves(np.arange(3.0), {"l0/linear1": np.array([[3.0], [2.0], [1.0]])})).axes
    assert axes[0].get_yscale() == "linear" and axes[0].get_ylim()[0] == 0.0


def test_loss_curves_survive_nulls_and_a_single_row():
    gaps = np.array([[1.0, np.nan], [np.nan, np.nan], [0.5, 0.1]])
    figure = drawn(plots.loss_curves(np.arange(3.0), {"total": gaps}))
    assert figure.axes[0].lines[-1].get_xdata().tolist() == [0.0, 2.0]
    drawn(plots.loss_curves(np.array([5.0]), {"total": np.array([[0.5]])}))


def test_recovery_marks_means_counts_and_published_values(rng):
    cosine, ratio = 1 - rng.random((3, 5)) * 0.01, 1 + rng.normal(size=(3, 5)) * 0.05
    cosine[1, 2] = ratio[1, 2] = np.nan
    figure = drawn(
        plots.recovery_over_seeds(cosine, ratio, recovered=[5, 4, 5], reference={"SPD paper": (1.0, 0.993)})
    )
    direction, length = figure.axes
    assert direction.get_ylabel() == "cosine with best component"
    assert [t.get_text() for t in direction.texts] == ["5/5", "4/5", "5/5"]
    bars = [c for c in length.collections if c.get_segments()]
    heights = [bar.get_segments()[0][0, 1] for bar in bars]
    np.testing.assert_allclose(heights, np.nanmean(ratio, axis=1))
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["SPD paper: MMCS 1.000, ML2R 0.993"]


def test_component_weights_share_one_signed_scale(rng):
    rows, parts = pentagon()
    figure = drawn(plots.component_weights(rows, parts.sum(0), parts, site="linear1"))
    images = images_of(figure)[:8]
    assert {image.get_clim() for image in images} == {(-1.0, 1.0)}
    np.testing.assert_allclose(images[2].get_array(), 0.0)
    np.testing.assert_allclose(images[3 + 1].get_array(), parts[1])
    tiny = drawn(plots.component_weights(rows, parts.sum(0), 0.03 * parts))
    assert images_of(tiny)[3].get_clim() == pytest.approx((-0.05, 0.05))
    assert "20 times" in tiny.get_supxlabel()
    across = drawn(plots.component_weights(rows, parts.sum(0), parts, transpose=True))
    np.testing.assert_allclose(images_of(across)[0].get_array(), rows.T)


def test_uv_matrices_stand_side_by_side(rng):
    v, u = rng.normal(size=(5, 4)), rng.normal(size=(4, 2))
    figure = drawn(
        plots.uv_matrices({"linear1": v}, {"linear1": u}, component_names={"linear1": list("abcd")})
    )
    left, right = images_of(figure)[:2]
    np.testing.assert_array_equal(left.get_array(), v)
    np.testing.assert_array_equal(right.get_array(), u)
    assert [t.get_text() for t in right.axes.get_yticklabels()] == list("abcd")


def test_histograms_and_activation_counts():
    figure = drawn(plots.importance_histograms({"a": np.array([10.0, 0.0, 3.0])}, np.linspace(0, 1, 4)))
    assert figure.axes[0].get_yscale() == "log"
    assert figure.axes[0].patches[0].get_data().values.tolist() == [10.0, 0.0, 3.0]
    counts = drawn(
        plots.mean_component_activation_counts({"a": np.array([[0.1, 0.5, 0.0], [0.3, 0.1, 0.0]])})
    )
    np.testing.assert_allclose(counts.axes[0].lines[-1].get_ydata(), [0.4, 0.1, 0.0])


def test_categories_and_minimality_and_attributions(rng):
    counts = {"dead": 2, "mono": 3, "duo": 1, "poly": 0, "represented": 4, "own": 3}
    bars = drawn(plots.subnet_categories({"all": counts}, {"all": 6}, 5, rule="Counted: x")).axes[0]
    assert [bar.get_height() for bar in bars.patches] == [2, 3, 1, 0, 4]
    assert bars.get_title(loc="left").startswith("3 of 5 features")
    rows = drawn(plots.varying_importance_minimality([{"a": rng.random((4, 4))}] * 3, [1e-6, 1e-5, 1e-4]))
    assert "1e-05" in rows.axes[1].get_ylabel()
    attributions = rng.random((5, 8))
    np.testing.assert_array_equal(
        images_of(drawn(plots.subnetwork_attributions(attributions)))[0].get_array(), attributions
    )
    batch = rng.random((50, 8))
    statistics = drawn(plots.subnetwork_attributions_statistics(batch))
    np.testing.assert_allclose([b.get_height() for b in statistics.axes[0].patches], batch.mean(0))
    selected = drawn(
        plots.subnetwork_attributions_batch_statistics(
            np.array([1.0, 2, 2]), np.array([0.0, 1, 1]), np.full(8, 0.5)
        )
    )
    assert [b.get_height() for b in selected.axes[1].patches] == [0.5] * 8


def test_neuron_contributions_label_large_neurons_and_name_components(rng):
    target = np.zeros((3, 4))
    target[[0, 1, 2], [3, 1, 0]] = 0.5
    figure = drawn(plots.neuron_contributions({"a": target}, {"a": 0.9 * target}, ["7", "8", "9"]))
    above, below = figure.axes
    assert [text.get_text() for text in above.texts] == ["3", "1", "0"]
    assert [label.get_text() for label in below.get_xticklabels()] == ["7", "8", "9"]
    pairs = drawn(
        plots.neuron_contribution_pairs({"layers.0": target}, {"layers.0": target}, {"layers.0": 1.0})
    )
    assert pairs.axes[0].get_title(loc="left") == "layers.0: r = 1.000"


def test_neurons_are_numbered_through_the_layers(rng):
    first, second = np.zeros((3, 4)), np.zeros((3, 2))
    first[0, 3] = second[0, 1] = 0.5
    layers = {"layers.0": first, "layers.1": second}
    figure = drawn(plots.neuron_contributions(layers, layers, ["1 / 4", "2 / 5", "3 / 6"]))
    assert {text.get_text() for text in figure.axes[0].texts} == {"3", "5"}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["layer 0", "layer 1"]
    rows = {"target": [first, second], "sum": [first, second]}
    by_neuron = drawn(plots.relu_contributions(rows, by_neuron=True))
    assert by_neuron.axes[0].get_xlim()[1] == pytest.approx(5.6)
    assert [text.get_text() for text in by_neuron.axes[0].texts] == ["0", "0"]
    drawn(plots.relu_contributions(rows, by_neuron=False))


def test_performance_scrubbing_and_virtual_weights(rng):
    losses = {"target": np.array([3e-3, 1e-3]), "topk_1": np.array([2e-3, 4e-3])}
    performance = drawn(plots.feature_losses(losses))
    assert performance.axes[0].lines[1].get_ydata().tolist() == [4e-3, 2e-3]
    drawn(plots.feature_losses({"target": np.zeros(2), "topk_1": np.full(2, np.nan)}))
    losses = {"active": np.array([0.0, 1e-5]), "scrubbed": np.array([2e-5, 3e-5])}
    scrub = drawn(plots.scrub_histogram(losses, baselines={"monosemantic": 1e-3}))
    assert scrub.axes[0].get_xscale() == "log"
    assert "0 is in the lowest bin" in scrub.axes[0].get_xlabel()
    drawn(plots.scrub_histogram({"active": np.zeros(5)}))
    part = {"read": np.eye(3), "write": np.eye(3), "through": -2 * np.eye(3)}
    weights = drawn(plots.virtual_weights(part, part, np.eye(3)))
    assert [image.get_clim() for image in images_of(weights)[:3]] == [(-1, 1), (-1, 1), (-2, 2)]


def test_errors_by_kind_of_input_have_a_bar_a_model(rng):
    errors = {"target": rng.random((2, 3)), "decomposition": rng.random((2, 3))}
    ax = drawn(
        plots.label_errors(errors, ["training distribution", "exactly 1 on", "x"], decomposition="SPD")
    ).axes[0]
    np.testing.assert_allclose([bar.get_height() for bar in ax.patches[:3]], errors["target"].mean(0))
    outputs = {"target": np.array([0.75, 0.5, 0.0]), "decomposition": np.zeros(3)}
    figure = drawn(plots.feature_representation_analysis(outputs, 0.75))
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"target, within 0.1", "within 0.3", "further off", "chosen components"} <= set(words)
    scatter = drawn(plots.avg_components_scatter(np.array([1e-3, np.nan]), {"all": np.ones(2)}, masking="x"))
    assert scatter.axes[0].lines[0].get_xdata().tolist() == [1e-3]


def test_responses_curves_ablations_and_ratios(rng):
    n = 4
    one = {"target": np.eye(n), "chosen components": np.eye(n)}
    figure = drawn(
        plots.individual_feature_responses(one, one, np.linspace(-1, 1, n), one_label=2 * np.ones(n))
    )
    assert figure.axes[0].lines[0].get_ydata().tolist() == [1.0] * n  # label minus input
    values, curve = np.linspace(-1, 1, 5), np.maximum(np.linspace(-1, 1, 5), 0)
    outputs = {"target": np.eye(n)[1], "chosen components": np.eye(n)[1]}
    single = drawn(plots.response_and_curve(values, outputs, {"target": curve, "label": curve}, 1))
    assert single.axes[1].lines[0].get_ydata().tolist() == curve.tolist()
    many = drawn(
        plots.responses_and_curves(np.eye(n), values, np.tile(curve, (n, 1)), np.tile(curve, (n, 1)))
    )
    assert len(many.axes[1].lines) == n + 1
    bands = {"scrubbed": (np.eye(n)[1], np.full(n, 0.1)), "anti-scrubbed": (np.zeros(n), np.zeros(n))}
    ablated = drawn(plots.feature_response_with_subnets(np.eye(n)[1], bands, 1))
    assert [text.get_text() for text in ablated.legends[0].get_texts()] == [
        "target",
        "scrubbed",
        "anti-scrubbed",
    ]
    ratios = drawn(plots.signal_to_noise(np.diag([3.0, 2, 1, 4]) + 1, rng.random((n, n))))
    assert [bar.get_height() for bar in ratios.axes[0].patches] == [4, 3, 2, 5]
    rows = {"MLPs": rng.random((2, n))}
    drawn(plots.resid_vs_mlp_out(np.eye(n)[:2], rows, [0, 1], {"MLPs": np.array([0.5, np.nan])}))


def test_statistics_and_correlations_of_components(rng):
    shares, counts = {"linear1": np.array([0.1, 0.4])}, {"linear1": np.array([0, 1, 1, 2])}
    figure = drawn(plots.component_activation_statistics(shares, shares, counts, np.array([0, 1, 1, 1])))
    assert figure.axes[0].lines[0].get_ydata().tolist() == [0.4, 0.1]
    assert [bar.get_height() for bar in figure.axes[1].patches[:3]] == [1, 2, 1]
    matrix = np.array([[1.0, -0.5], [-0.5, 1.0]])
    figure = drawn(
        plots.subnetwork_correlation_matrix({"a": matrix}, names={"a": ["7", "9"]}, left_out={"a": 3})
    )
    assert images_of(figure)[0].get_clim() == (-1, 1)
    assert "3 that never change" in figure.axes[0].get_xlabel()


def test_toy_models_are_drawn_layer_by_layer():
    rows, parts = pentagon()
    titles = ["Target model", "Sum of components", *(f"Component {c}" for c in range(5))]
    figure = drawn(plots.tms_vectors([rows, parts.sum(0), *parts], titles, left_out="nothing"))
    assert [ax.get_title() for ax in figure.axes] == titles
    eye, none = np.eye(2), np.zeros_like(rows)
    stacks = [[rows, eye, rows.T], [rows, eye, rows.T], [none, eye, none.T]]
    figure = drawn(plots.tms_full_network(stacks, ["Target model", "Sum of components", "Hidden 1: 4"]))
    assert len(figure.axes[2].lines) == 2  # the identity's two edges, and none of the zero layers
    figure = drawn(plots.tms_hidden_layers([eye, eye, -eye], titles[:3], site="hidden_layers.0"))
    assert {image.get_clim() for image in images_of(figure)[:3]} == {(-1.0, 1.0)}


def test_images_colour_the_classes_that_a_component_fires_for(rng):
    strengths = np.zeros((7, 10))
    strengths[2, [3, 8]] = 0.8, 0.7
    strengths[2, 5] = 0.1
    figure = drawn(plots.component_images(rng.normal(size=(7, 8, 8)), strengths, [f"c{i}" for i in range(7)]))
    captions = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert captions == [f"c{i}" for i in range(7)]
    bars = next(ax for ax in figure.axes if len(ax.patches) == 10 and ax.patches[3].get_height() == 0.8)
    strong = [i for i, bar in enumerate(bars.patches) if bar.get_facecolor()[:3] == to_rgb("#D55E00")]
    assert strong == [3, 8]


def test_cosine_analysis_has_a_point_a_component_and_seed(rng):
    figure = drawn(
        plots.cosine_similarity_analysis(
            rng.random((2, 20)), rng.random((2, 20)), rng.random((2, 5)), rng.random((2, 5))
        )
    )
    assert [len(line.get_xdata()) for line in figure.axes[0].lines] == [20, 20]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["seed 0", "seed 1"]


def test_a_sum_that_is_longer_than_the_target_stays_in_its_panel():
    rows, parts = pentagon()
    figure = drawn(plots.tms_combined_diagram(rows, 2 * rows, parts))
    panel = next(ax for ax in figure.axes if ax.get_title() == "Sum of components")
    assert panel.get_xlim()[1] > 2 * np.abs(rows).max()
