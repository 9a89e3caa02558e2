"""Linear probes against scikit-learn and slow references; noise gives chance; folds and controls."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge

from microtome.comparison.probe_depth import decodable_from, first_layer, image_weights
from microtome.comparison.probe_description import TEMPERATURES, UNIFORM, block_starts, online_code
from microtome.comparison.probe_lda import nested_lda
from microtome.comparison.probe_logistic import nested_logistic
from microtome.comparison.probe_ridge import PENALTIES, nested_ridge
from microtome.comparison.probe_spectrum import FoldedRows, coordinates, eigen
from microtome.comparison.probe_tasks import Task, control_labels, stratified_folds

SHRINKAGES = (0.9, 0.5, 0.1, 0.01)


def clusters(n, d, c, separation, seed=0):
    """Gaussian classes with an uneven covariance, and their labels."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.arange(n) % c)
    mixing = random.normal(size=(d, d)) / np.sqrt(d)
    return random.normal(size=(n, d)) @ mixing + separation * random.normal(size=(c, d))[labels], labels


def slow_nested(x, labels, folds):
    """Nested cross-validation with scikit-learn, one fit at a time."""

    def right(train, test, shrinkage):
        lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage)
        return lda.fit(x[train], labels[train]).predict(x[test]) == labels[test]

    correct = np.zeros(len(x), dtype=bool)
    for i in range(5):
        inner = [
            sum(right((folds != i) & (folds != j), folds == j, g).sum() for j in range(5) if j != i)
            for g in SHRINKAGES
        ]
        correct[folds == i] = right(folds != i, folds == i, SHRINKAGES[int(np.argmax(inner))])
    return correct


@pytest.mark.parametrize(("n", "d", "c"), [(90, 12, 3), (60, 80, 2), (120, 30, 8)])
def test_every_held_out_image_is_named_as_by_scikit_learn(n, d, c):
    x, labels = clusters(n, d, c, 0.5)
    folds = stratified_folds([labels], 5, 0)
    found = nested_lda(FoldedRows(torch.from_numpy(x), folds), labels[None], c, SHRINKAGES)
    assert (found.correct[0] == slow_nested(x, labels, folds)).all()
    assert found.accuracy[0] > 1.5 / c


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), c=st.integers(2, 20), d=st.integers(2, 40))
def test_labellings_do_not_touch_each_other_and_names_of_classes_do_not_matter(seed, c, d):
    x, labels = clusters(100, d, c, 0.4, seed)
    random = np.random.default_rng(seed)
    rows = FoldedRows(torch.from_numpy(x), stratified_folds([labels], 5, seed))
    others = np.stack([random.permutation(labels) for _ in range(4)])
    together = nested_lda(rows, np.concatenate([others, labels[None]]), c, SHRINKAGES)
    alone = nested_lda(rows, labels[None], c, SHRINKAGES)
    renamed = nested_lda(rows, random.permutation(c)[labels][None], c, SHRINKAGES)
    assert (together.correct[-1] == alone.correct[0]).mean() > 0.98  # rounding may turn a tie
    assert (renamed.correct == alone.correct).mean() > 0.98


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_probes_see_no_order_of_features_and_no_rotation(seed):
    x, labels = clusters(80, 25, 3, 0.4, seed)
    random = np.random.default_rng(seed)
    rotation = np.linalg.qr(random.normal(size=(25, 25)))[0]
    folds = stratified_folds([labels], 5, seed)

    def correct(rows):
        return nested_lda(FoldedRows(coordinates(rows, 256), folds), labels[None], 3, SHRINKAGES).correct

    same = correct(x)
    assert (correct(x[:, random.permutation(25)] * 7 + 3) == same).mean() > 0.97
    assert (correct(x @ rotation) == same).mean() > 0.97


def test_noise_gives_chance_where_choosing_on_the_test_folds_would_not():
    random = np.random.default_rng(0)
    nested, naive = [], []
    for _ in range(12):
        x = torch.from_numpy(random.normal(size=(100, 60)))
        labels = np.stack([random.permutation(np.arange(100) % 2) for _ in range(20)])
        rows = FoldedRows(x, stratified_folds([labels[0]], 5, 0))
        nested.append(nested_lda(rows, labels, 2, SHRINKAGES).accuracy)
        naive.append(np.max([nested_lda(rows, labels, 2, (g,)).accuracy for g in SHRINKAGES], axis=0))
    # Accuracies of one x share it; x are independent.
    error = np.mean(nested, axis=1).std(ddof=1) / np.sqrt(len(nested))
    assert abs(np.mean(nested) - 0.5) < max(4 * error, 0.01)
    assert np.mean(naive) > 0.515


def test_coordinates_are_a_rotation_and_the_leading_ones_are_principal():
    x, _ = clusters(50, 20, 2, 0.3)
    centred = x - x.mean(0)
    z = coordinates(x, 256).numpy()
    scale = np.abs(centred).max()
    np.testing.assert_allclose(z @ z.T, centred @ centred.T / scale**2, atol=1e-10)
    values = np.linalg.svd(centred, compute_uv=False)
    np.testing.assert_allclose(
        np.linalg.norm(coordinates(x, 3).numpy(), axis=0), values[:3] / scale, rtol=1e-9
    )
    assert coordinates(np.ones((10, 4)), 8).shape == (10, 1)


def test_subspace_iteration_finds_the_components_of_a_large_layer(monkeypatch):
    monkeypatch.setattr("microtome.comparison.probe_spectrum.EXACT", 30)
    random = np.random.default_rng(0)
    x = random.normal(size=(90, 70)) * np.exp(-np.arange(70) / 4)
    z = coordinates(x, 6).numpy()
    exact = np.linalg.svd(x - x.mean(0), compute_uv=False)[:6] / np.abs(x - x.mean(0)).max()
    np.testing.assert_allclose(np.linalg.norm(z, axis=0), exact, rtol=1e-5)
    permuted = coordinates(x[:, random.permutation(70)], 6).numpy()
    np.testing.assert_allclose(permuted, z, atol=1e-8)


@pytest.mark.parametrize(("n", "r"), [(30, 8), (8, 30)])
def test_eigen_rebuilds_the_scatter(n, r):
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(n, r)))
    found = eigen(x)
    centred = x - x.mean(0)
    torch.testing.assert_close(found.basis @ found.values.diag() @ found.basis.T, centred.T @ centred)
    torch.testing.assert_close(found.basis.T @ found.basis, torch.eye(len(found.values), dtype=x.dtype))


def test_ridge_against_scikit_learn_and_noise():
    random = np.random.default_rng(1)
    x = random.normal(size=(80, 10))
    y = np.stack([x @ random.normal(size=10) + 0.5 * random.normal(size=80), random.normal(size=80)])
    folds = stratified_folds([np.zeros(80, dtype=np.int64)], 5, 0)
    found = nested_ridge(FoldedRows(torch.from_numpy(x), folds), y)

    def guess(train, test, penalty, target):
        unit = np.square(x[train] - x[train].mean(0)).sum() / 10
        return Ridge(penalty * unit).fit(x[train], target[train]).predict(x[test])

    def error(i, j, penalty, target):
        held = folds == j
        return np.square(guess((folds != i) & ~held, held, penalty, target) - target[held]).sum()

    for target, predicted in zip(y, found.predicted, strict=True):
        for i in range(5):
            inner = [
                sum(
                    np.square(
                        guess((folds != i) & (folds != j), folds == j, p, target) - target[folds == j]
                    ).sum()
                    for j in range(5)
                    if j != i
                )
                for p in PENALTIES
            ]
            expected = guess(folds != i, folds == i, PENALTIES[int(np.argmin(inner))], target)
            np.testing.assert_allclose(predicted[folds == i], expected, rtol=1e-6, atol=1e-8)
    assert found.r2[0] > 0.9
    assert found.r2[1] < 0.1


def test_logistic_regression_is_scikit_learns_and_agrees_with_lda():
    x, labels = clusters(300, 10, 3, 0.6, 3)
    folds = stratified_folds([labels], 5, 0)
    found = nested_logistic(x, labels, folds, (1.0,))
    scale = np.sqrt(np.square(x).mean())
    slow = np.zeros(300, dtype=bool)
    for i in range(5):
        fitted = LogisticRegression(C=1.0, max_iter=300).fit(x[folds != i] / scale, labels[folds != i])
        slow[folds == i] = fitted.predict(x[folds == i] / scale) == labels[folds == i]
    assert (found.correct == slow).all()
    lda = nested_lda(FoldedRows(torch.from_numpy(x), folds), labels[None], 3, SHRINKAGES).correct[0]
    difference = found.correct.astype(float) - lda
    assert abs(difference.mean()) < 1.96 * difference.std() / np.sqrt(300) + 0.01


def slow_code(x, labels, c, seed):
    """The mixture code from scikit-learn-free, direct inverses."""
    from microtome.core.seeds import stream_seed

    n = len(x)
    order = np.random.default_rng(stream_seed(seed, "order of sending")).permutation(n)
    x, labels = x[order], labels[order]
    starts = block_starts(n)
    logs = [[] for _ in range(len(SHRINKAGES) * len(TEMPERATURES))]
    for start, stop in pairwise(starts):
        known, own = x[:start], labels[:start]
        counts = np.bincount(own, minlength=c)
        means = np.stack([known[own == k].mean(0) if counts[k] else known.mean(0) for k in range(c)])
        residual = known - means[own]
        within = residual.T @ residual / start
        for i, g in enumerate(SHRINKAGES):
            covariance = (1 - g) * within + g * np.trace(within) / x.shape[1] * np.eye(x.shape[1])
            weights = np.linalg.solve(covariance, (means - known.mean(0)).T)
            offset = np.log((counts + 1) / (start + c)) - 0.5 * ((means - known.mean(0)).T * weights).sum(0)
            values = (x[start:stop] - known.mean(0)) @ weights + offset
            for j, t in enumerate(TEMPERATURES):
                p = np.exp(t * values - np.logaddexp.reduce(t * values, axis=1)[:, None])
                own_p = p[np.arange(stop - start), labels[start:stop]]
                logs[i * len(TEMPERATURES) + j] += list(np.log((1 - UNIFORM) * own_p + UNIFORM / c))
    experts = [sum(one) for one in logs] + [-(n - starts[0]) * np.log(c)]
    nats = -(np.logaddexp.reduce(experts) - np.log(len(experts)))
    return (nats + starts[0] * np.log(c)) / np.log(2)


@pytest.mark.parametrize(("separation", "d"), [(0.8, 6), (0.0, 40)])
def test_code_length_against_a_slow_reference(separation, d):
    x, labels = clusters(90, d, 3, separation, 2)
    code = online_code(torch.from_numpy(x), labels[None], 3, SHRINKAGES, 0)
    assert code.bits.sum() == pytest.approx(slow_code(x, labels, 3, 0), rel=1e-6)
    experts = len(SHRINKAGES) * len(TEMPERATURES) + 1
    assert code.bits.sum() <= 90 * np.log2(3) + np.log2(experts) + 1e-9
    assert code.sent[0, -1] == pytest.approx(code.bits.sum())
    if separation:
        assert code.bits.mean() < 0.7 * np.log2(3)
    else:
        assert code.bits.mean() > 0.97 * np.log2(3)


# -- folds and controls


@settings(max_examples=30, deadline=None)
@given(n=st.integers(20, 200), c=st.integers(2, 9), seed=st.integers(0, 1000))
def test_folds_are_even_overall_and_in_every_class(n, c, seed):
    labels = np.random.default_rng(seed).integers(0, c, n)
    folds = stratified_folds([labels], 5, seed)
    for chosen in (np.ones(n, dtype=bool), *(labels == k for k in np.unique(labels))):
        counts = np.bincount(folds[chosen], minlength=5)
        assert counts.max() - counts.min() <= 1


def test_folds_are_even_in_labels_nested_in_the_finest():
    character = np.repeat(np.arange(30), 7)
    alphabet = (np.random.default_rng(0).permutation(30) % 3)[character]
    folds = stratified_folds([alphabet, character], 5, 1)
    for label in (character, alphabet):
        table = np.array([np.bincount(folds[label == k], minlength=5) for k in np.unique(label)])
        assert (table.max(1) - table.min(1)).max() <= 1


def test_control_labels_keep_the_types_whole():
    character = np.repeat(np.arange(12), 5)
    tasks = (
        Task("character", character, tuple(map(str, range(12)))),
        Task("alphabet", character // 4, ("a", "b", "c")),
        Task("ink", np.arange(60) % 2, ("low", "high")),
    )
    drawn, of = control_labels(tasks[1], tasks, 6, 0)
    assert of == "character"
    for control in drawn:
        assert all(len(set(control[character == k])) == 1 for k in range(12))
        assert (np.bincount(control) == 20).all()
    assert (drawn != tasks[1].values).any(1).all()
    drawn, of = control_labels(tasks[2], tasks, 3, 0)
    assert of == "images"
    assert (np.sort(drawn) == np.sort(tasks[2].values)).all()


# -- depth


def test_first_layer_that_reaches_the_share_by_hand():
    accuracy = np.array([[0.5, 0.6, 0.97, 1.0], [0.5, 0.99, 0.97, 1.0], [0.5, 0.5, 0.4, 0.5]])
    found = first_layer(accuracy, np.full(4, 0.5), 0.95)
    np.testing.assert_array_equal(found, [3, 1, np.nan])
    assert first_layer(accuracy[:1], np.full(4, 0.5), 0.9)[0] == 2


def test_interval_of_the_depth_covers_the_layers_that_might_be_it():
    random = np.random.default_rng(0)
    correct = (random.random((4, 200)) < np.array([0.5, 0.75, 0.76, 0.76])[:, None]).astype(float)
    weights = image_weights(200, 400, 0)
    np.testing.assert_allclose(weights.sum(1), 1)
    depth = decodable_from(correct, np.full(4, 0.5), weights, 0.95)
    assert depth is not None
    assert 1 <= depth.low <= depth.layer <= depth.high
    clear = np.array([[0.0], [1.0], [1.0]]) * np.ones((3, 50))
    sure = decodable_from(clear, np.zeros(3), image_weights(50, 200, 0), 0.95)
    assert sure is not None and (sure.layer, sure.low, sure.high) == (1, 1, 1)
    assert decodable_from(np.zeros((3, 50)), np.full(3, 0.5), image_weights(50, 200, 0), 0.95) is None
