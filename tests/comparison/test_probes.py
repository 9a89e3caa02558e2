"""Probing as an analysis: planted differences are found where they are, order and noise make none."""

import dataclasses

import numpy as np
import pytest
import torch
from probe_fakes import compared, images_of, rearrange

from microtome.comparison.layer_axis import short_names
from microtome.comparison.probe_config import ProbeConfig
from microtome.comparison.probe_mlp import MLPShape, batched_mlp, mlp_inputs
from microtome.comparison.probe_plots import draw
from microtome.comparison.probe_targets import probe_targets
from microtome.comparison.probe_tasks import stratified_folds
from microtome.comparison.probes import analyse
from microtome.comparison.statistics import judge
from microtome.core.errors import MicrotomeError

QUICK = ProbeConfig(
    permutations=20, controls=2, bootstraps=200, mlp_steps=40, mlp_hidden=16, mlp_dimensions=16
)
N = 120
LABELS = {"shape": np.arange(N) % 4, "pair": np.arange(N) % 4 // 2}


def network(seed, strength=(0.0, 0.3, 0.55), d=20, n=N):
    """Layers that tell ``shape`` more clearly the deeper they are; directions differ by seed."""
    random = np.random.default_rng(seed)
    return {
        f"conv{i + 1}": random.normal(size=(n, d)) + s * (random.normal(size=(4, d)) * 1.2)[np.arange(n) % 4]
        for i, s in enumerate(strength)
    }


def floors(k=4):
    return [network(100 + i, (0.0, 0.3, 0.3)) for i in range(k)]


def rows_of(part, statistic, **where):
    return [
        row
        for row in part.rows
        if row.statistic == statistic and all(getattr(row, name) == value for name, value in where.items())
    ]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    arms, activations = compared(
        tmp_path_factory.mktemp("activations"),
        {"meta": [network(0), network(1)], "baseline": [network(2, (0.0, 0.3, 0.3))]},
        floors(),
    )
    said = []
    return analyse(arms, activations, images_of(**LABELS), QUICK, said.append, 0), said


def test_the_layer_that_differs_is_named_and_no_other(found):
    part, said = found
    judged = judge(part.claims)
    stated = {(one.claim.layer, one.claim.about.split()[2]) for one in judged if one.distinguishable}
    assert ("conv3", "shape") in stated <= {("conv3", "shape"), ("conv3", "pair")}
    assert len(part.claims) == 6
    assert "7 networks" in said[0]


def test_numbers_stand_beside_their_controls(found):
    part, _ = found
    (best,) = rows_of(part, "linear accuracy", layer="conv3", arm="meta", label="shape")
    (none,) = rows_of(part, "linear accuracy", layer="conv1", arm="meta", label="shape")
    assert best.value > 0.85 and best.floor < best.value - 0.2 and abs(best.null - 0.25) < 0.08
    assert (best.seeds, best.n) == (2, N) and best.low < best.value < best.high
    assert best.p == pytest.approx(1 / 21) and none.p > 0.05
    (pair,) = rows_of(part, "linear selectivity", layer="conv3", arm="meta", label="pair")
    assert "labels of shape" in pair.note
    (depth,) = rows_of(part, "decodable from layer", arm="meta", label="shape")
    assert depth.layer == "conv3" and depth.value == 3
    (bits,) = rows_of(part, "description length", layer="conv3", arm="meta", label="shape")
    assert bits.value < 1.5 < bits.floor < bits.null == pytest.approx(2.0, abs=0.12)
    (difference,) = rows_of(part, "linear accuracy difference", layer="conv3", label="shape")
    assert 0 < difference.low < difference.value and difference.other == "baseline"
    assert 0 <= difference.ceiling < 0.15 and difference.floor is not None


def test_the_order_of_the_images_changes_nothing(found, tmp_path):
    part, _ = found
    order = np.random.default_rng(3).permutation(N)

    def shuffled(layers):
        return {name: rows[order] for name, rows in layers.items()}

    arms, activations = compared(
        tmp_path,
        {
            "meta": [shuffled(network(0)), shuffled(network(1))],
            "baseline": [shuffled(network(2, (0.0, 0.3, 0.3)))],
        },
        [shuffled(floor) for floor in floors()],
    )
    again = analyse(arms, activations, rearrange(images_of(**LABELS), order), QUICK, lambda _: None, 0)
    assert [dataclasses.asdict(row) for row in again.rows] == [dataclasses.asdict(row) for row in part.rows]


def test_documented_pictures_are_drawn_from_rows_and_arrays_alone(found):
    part, _ = found
    stored = dataclasses.replace(part, claims=[], arrays={k: v.copy() for k, v in part.arrays.items()})
    names = [name for name, _ in draw(stored)]
    folder = "probe_analysis"
    expected = {
        f"{folder}/meta_probing/probe_conv1_shape.png",
        f"{folder}/baseline_probing/probe_conv3_pair.png",
        f"{folder}/meta_probing/probe_accuracy_summary.png",
        f"{folder}/baseline_probing/probe_accuracy_by_depth.png",
        f"{folder}/meta_vs_baseline_linear_probe.png",
        f"{folder}/meta_vs_baseline_nonlinear_probe.png",
        f"{folder}/meta_advantage_by_layer.png",
    }
    assert expected <= set(names) and len(set(names)) == len(names)


def test_networks_alike_give_no_claims(tmp_path):
    alike = [network(i, (0.2, 0.2, 0.2)) for i in range(6)]
    arms, activations = compared(tmp_path, {"a": alike[:1], "b": alike[1:2]}, alike[2:])
    settings = QUICK.model_copy(update={"mlp": False, "description_length": False})
    part = analyse(arms, activations, images_of(**LABELS), settings, lambda _: None, 0)
    assert not any(one.distinguishable for one in judge(part.claims))
    assert not rows_of(part, "MLP accuracy") and not rows_of(part, "description length")
    assert [name for name, _ in draw(part)]


def test_two_equal_networks_and_a_permuted_one_have_equal_probes(tmp_path):
    one = network(5)
    mixed = {name: rows[:, np.random.default_rng(0).permutation(20)] for name, rows in one.items()}
    arms, activations = compared(tmp_path, {"a": [one], "b": [mixed]}, floors())
    part = analyse(arms, activations, images_of(**LABELS), QUICK, lambda _: None, 0)
    for kind in ("linear", "MLP"):
        for row in rows_of(part, f"{kind} accuracy difference"):
            assert abs(row.value) <= 1 / N
    assert not any(one.distinguishable for one in judge(part.claims))


def test_logistic_regression_on_demand_and_dead_layers(tmp_path):
    dead = {"conv1": np.zeros((N, 20)), "conv2": network(0)["conv3"]}
    broken = {"conv1": np.full((N, 20), np.nan), "conv2": network(1)["conv3"]}
    arms, activations = compared(tmp_path, {"a": [dead], "b": [broken]}, [dead, dead])
    settings = QUICK.model_copy(update={"logistic": True, "logistic_penalties": (1.0,), "tasks": ("shape",)})
    part = analyse(arms, activations, images_of(**LABELS), settings, lambda _: None, 0)
    (exact,) = rows_of(part, "logistic accuracy", arm="a", layer="conv2")
    (linear,) = rows_of(part, "linear accuracy", arm="a", layer="conv2")
    assert exact.low < linear.value < exact.high
    (nothing,) = rows_of(part, "linear accuracy", arm="a", layer="conv1")
    assert nothing.value == pytest.approx(0.25, abs=0.02)
    assert any("not finite" in remark for remark in part.remarks)
    assert [name for name, _ in draw(part)]


def test_small_classes_are_left_out_with_a_remark_and_nothing_left_is_an_error(tmp_path):
    rare = LABELS["shape"].copy()
    rare[:3] = 4
    arms, activations = compared(tmp_path, {"a": [network(0)], "b": [network(1)]}, floors(2))
    images = images_of(
        rare=rare, one=np.zeros(N, dtype=int), some=np.where(np.arange(N) < 60, np.arange(N) % 2, -1)
    )
    settings = QUICK.model_copy(update={"mlp": False})
    part = analyse(arms, activations, images, settings, lambda _: None, 0)
    assert any("rare: 1 of 5 classes are left out: fewer than 5 images" in remark for remark in part.remarks)
    assert any("one: fewer than two classes" in remark for remark in part.remarks)
    assert {row.n for row in part.rows if row.label == "rare"} == {N - 3}
    assert {row.n for row in part.rows if row.label == "some"} == {60}
    with pytest.raises(MicrotomeError, match="no label has two classes with 5 images or more"):
        analyse(arms, activations, images_of(one=np.zeros(N, dtype=int)), settings, lambda _: None, 0)
    with pytest.raises(MicrotomeError, match=r"tasks='colour'.*rare, one, some"):
        wrong = settings.model_copy(update={"tasks": ("colour",)})
        analyse(arms, activations, images, wrong, lambda _: None, 0)


def test_mlp_decodes_what_no_linear_probe_can():
    random = np.random.default_rng(0)
    x = random.normal(size=(400, 2))
    labels = (x[:, 0] * x[:, 1] > 0).astype(np.int64)
    folds = stratified_folds([labels], 5, 0)
    inputs = torch.stack([mlp_inputs(torch.from_numpy(x), 4), torch.randn(400, 4)])
    found = batched_mlp(inputs, labels, folds, 2, MLPShape(16, 4, 150), 0)
    assert found.correct[0].mean() > 0.9
    assert abs(found.correct[1].mean() - 0.5) < 0.09
    alone = batched_mlp(inputs[:1], labels, folds, 2, MLPShape(16, 4, 150), 0)
    assert (alone.correct[0] == found.correct[0]).mean() > 0.97


def test_blocks_of_mlps_are_joined(monkeypatch):
    random = np.random.default_rng(0)
    labels = np.arange(60) % 2
    x = torch.from_numpy(random.normal(size=(3, 60, 4))).float()
    folds = stratified_folds([labels], 3, 0)
    whole = batched_mlp(x, labels, folds, 2, MLPShape(8, 4, 20), 0)
    monkeypatch.setattr("microtome.comparison.probe_mlp.AT_ONCE", 1)
    apart = batched_mlp(x, labels, folds, 2, MLPShape(8, 4, 20), 0)
    assert apart.correct.shape == (3, 60) and apart.train_loss.shape[1] == len(apart.steps)
    assert (apart.correct == whole.correct).mean() > 0.95


def test_any_targets():
    random = np.random.default_rng(0)
    x = random.normal(size=(100, 8))
    targets = {
        "word": np.where(x[:, 0] > 0, "left", "right"),
        "both": x[:, :2] > 0,
        "angle": x[:, 3] + 0.1 * random.normal(size=100),
        "noise": random.normal(size=(100, 2)),
    }
    found = {row.label: row for row in probe_targets(x, targets, QUICK)}
    assert list(found) == ["word", "both 0", "both 1", "angle", "noise 0", "noise 1"]
    assert found["word"].value > 0.85 and found["both 1"].p == pytest.approx(1 / 21)
    assert found["angle"].statistic == "linear R2" and found["angle"].value > 0.9
    assert found["noise 0"].value < 0.1 and found["noise 0"].p > 0.04
    with pytest.raises(MicrotomeError, match="angle='99 values'"):
        probe_targets(x, {"angle": x[:99, 0]}, QUICK)
    with pytest.raises(MicrotomeError, match="2 classes, the smallest of 1 rows"):
        probe_targets(x, {"one": np.arange(100) == 3}, QUICK)


def test_names_of_layers_are_shortened_to_what_tells_them_apart():
    assert short_names(["conv1", "conv2"]) == ["conv1", "conv2"]
    assert short_names(["net.0.dense", "net.12.dense"]) == ["0", "12"]
    assert short_names(["a.b"]) == ["a.b"]
    long = short_names(["first_projection_of_x", "second_projection_of_x"])
    assert len(set(long)) == 2 and max(map(len, long)) <= 17


def test_settings_say_what_is_wrong():
    with pytest.raises(MicrotomeError, match="shrinkage"):
        ProbeConfig.from_mapping({"shrinkages": []})
    assert ProbeConfig.from_mapping({"shrinkages": [0.1, 0.9]}).shrinkages == (0.9, 0.1)
