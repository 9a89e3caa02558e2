"""A run folder's stored arrays become pictures; what is missing leaves its picture out."""

import numpy as np
import pytest

from microtome.core.config import Config
from microtome.core.errors import CannotLoad
from microtome.core.runs import RunFolder
from microtome.decomposition import picture_data
from microtome.decomposition.interpret.draw_tms import _hidden_panels
from microtome.decomposition.pictures import draw_all, redraw

K, N, H, C = 2, 5, 2, 8


class Settings(Config):
    """A configuration, for the folder's sake."""

    seed: int = 0


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path / "run", Settings(), kind="decompose-spd")


def store_toy_model(run):
    angle = 2 * np.pi * np.arange(N) / N
    rows = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    left, right, lower = np.zeros((K, C, N, 1)), np.zeros((K, C, 1, H)), np.zeros((K, N, C))
    for j in range(N):
        left[:, j + 1, j, 0], right[:, j + 1, 0], lower[:, j, j + 1] = 1.0, rows[j], 1.0
    target = np.broadcast_to(rows, (K, N, H))
    swap = (0, 1, 3, 2)
    run.save_arrays(
        "weights",
        {
            "target/linear1": target,
            "left/linear1": left,
            "right/linear1": right,
            "target/linear2": target.swapaxes(1, 2),
            "left/linear2": right.transpose(swap),
            "right/linear2": left.transpose(swap),
        },
    )
    return lower


@pytest.fixture
def not_rendered(monkeypatch):
    """Figures are made but not rendered: ``test_plots`` does that."""
    monkeypatch.setattr(
        RunFolder, "save_figure", lambda run, name, figure, **_: run.path / "plots" / f"{name}.png"
    )


def names(paths):
    return [path.stem for path in paths]


def test_an_empty_run_draws_nothing_and_no_run_is_refused(run, tmp_path):
    assert draw_all(run) == []
    with pytest.raises(CannotLoad):
        redraw(tmp_path / "nowhere")


def test_losses_alone_draw_the_loss_curves(run):
    for step in range(3):
        run.log(step, {"total": [1.0 / (step + 1), 0.5], "faithfulness": 0.1, "lr": 1e-3})
    assert names(redraw(run.path)) == ["loss_curves"]
    assert (run.path / "plots" / "loss_curves.png").stat().st_size > 1000


def test_a_toy_model_draws_the_documented_pictures(run, not_rendered):
    lower = store_toy_model(run)
    sites = ("linear1", "linear2")
    run.save_arrays("causal_importance", {f"{kind}/{s}": lower for kind in ("lower", "upper") for s in sites})
    run.save_arrays(
        "recovery", {"cosine": np.ones((K, N)), "ratio": np.ones((K, N)), "recovered": np.full(K, N)}
    )
    run.save_arrays("attributions", {"features": lower})
    assert names(draw_all(run)) == [
        "recovery",
        "tms_combined_diagram",
        "tms_combined_diagram_1",
        "cosine_similarity_analysis",
        "component_weights",
        "component_weights_linear2",
        "UV_matrices",
        "causal_importances",
        "causal_importances_upper_leaky",
        "subnetwork_attributions",
        "subnet_categories",
    ]


def test_hidden_layers_belong_to_target_and_sum_only():
    eye = np.broadcast_to(np.eye(2), (1, 2, 2))
    targets = {"linear1": np.ones((1, 5, 2)), "hidden_layers.0": eye}
    half = np.sqrt(0.5) * np.eye(2).reshape(1, 2, 2, 1)
    left, right = {"hidden_layers.0": half}, {"hidden_layers.0": half.transpose(0, 1, 3, 2)}
    panels = _hidden_panels(targets, left, right, 0, 3)
    np.testing.assert_array_equal(panels[0][0], np.eye(2))
    np.testing.assert_allclose(panels[1][0], 0.5 * np.eye(2))
    assert [panel[0].any() for panel in panels[2:]] == [False] * 3


def test_a_residual_mlp_draws_contributions_of_every_layer(run, not_rendered):
    rng = np.random.default_rng(0)
    arrays = {}
    for layer in range(2):
        for part, shape in (("mlp_in", (6, 4)), ("mlp_out", (4, 6))):
            site = f"layers.{layer}.{part}"
            arrays[f"target/{site}"] = rng.normal(size=(1, *shape))
            arrays[f"left/{site}"] = rng.normal(size=(1, C, shape[0], 1))
            arrays[f"right/{site}"] = rng.normal(size=(1, C, 1, shape[1]))
    run.save_arrays("weights", arrays)
    run.save_arrays("embedding", {"W_E": rng.normal(size=(1, 3, 6)), "W_U": rng.normal(size=(1, 6, 3))})
    drawn = names(draw_all(run))
    assert {"resid_mlp_weights_2layers", "neuron_contribution_pairs", "virtual_weights"} <= set(drawn)


def test_a_digit_reader_draws_its_first_layer(run, not_rendered):
    rng = np.random.default_rng(0)
    run.save_arrays(
        "weights",
        {
            "target/layers.0": rng.normal(size=(1, 64, 3)),
            "left/layers.0": rng.normal(size=(1, C, 64, 1)),
            "right/layers.0": rng.normal(size=(1, C, 1, 3)),
        },
    )
    run.save_arrays(
        "classes", {"importance/layers.0": rng.random((1, 10, C)), "image_shape": np.array([8, 8])}
    )
    assert "components_layers_0" in names(draw_all(run))


def test_loss_table_reads_lists_numbers_and_nulls():
    rows = [
        {"step": 0, "faithfulness": [1.0, 2.0], "total": [3.0, None], "lr": 1.0, "note": "words"},
        {"step": 5, "total": [2.0, 1.0]},
    ]
    steps, losses = picture_data.loss_table(rows)
    assert steps.tolist() == [0.0, 5.0]
    assert list(losses) == ["total", "faithfulness"]
    np.testing.assert_array_equal(losses["total"], [[3.0, np.nan], [2.0, 1.0]])
    np.testing.assert_array_equal(losses["faithfulness"], [[1.0, 2.0], [np.nan, np.nan]])
    assert picture_data.loss_table([]) is None


def test_best_first_follows_the_features_and_says_what_is_left_out():
    rows = np.eye(4)
    parts = np.zeros((6, 4, 4))
    for component, feature in ((5, 0), (0, 1), (3, 2), (2, 3)):
        parts[component, feature] = rows[feature] * (1 + 0.1 * feature)
    parts[1, 0, 1] = 0.01
    shown, labels, left_out = picture_data.best_first(parts, 10, like=rows)
    assert shown.tolist() == [5, 0, 3, 2]
    assert labels == ["5", "0", "3", "2"]
    assert left_out == "2 of 6 components (norm up to 0.01) are not shown."
    assert picture_data.best_first(parts, 2)[0].tolist() == [2, 3]
    assert picture_data.best_first(np.zeros((3, 2, 2)), 2)[0].tolist() == []


def test_crop_keeps_every_active_column():
    values = np.zeros((3, 9))
    values[range(3), [4, 7, 1]] = 1.0
    assert picture_data.crop_to_active(values).tolist() == [4, 7, 1]
    values[0, 8] = 0.5
    assert set(picture_data.crop_to_active(values)) >= {4, 7, 1, 8}
