"""One Gram matrix against separate computations on the rows; influences against resampling."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from microtome.comparison.activation_statistics import joint_scores
from microtome.comparison.gram import Gram, cka_input_values
from microtome.comparison.similarity import _null_deviation
from microtome.measures import representation_similarity as measures


@pytest.fixture
def rows():
    draws = np.random.default_rng(0)
    common = draws.normal(size=(50, 3))
    return [common @ draws.normal(size=(3, d)) + draws.normal(size=(50, d)) for d in (8, 70)]


def test_measures_are_those_of_the_rows(rows):
    x, y = rows
    one, other = Gram(x), Gram(y)
    assert one.cka(other) == pytest.approx(measures.debiased_cka(x, y))
    assert one.procrustes(other) == pytest.approx(measures.procrustes_distance(x, y))
    assert one.rsa(other) == pytest.approx(measures.rsa(x, y))
    assert one.overlap(other, 4) == pytest.approx(measures.subspace_overlap(x, y, 4))


def test_principal_components_are_scikit_learns(rows):
    scores, shares = Gram(rows[1]).pca(3)
    theirs = PCA(3, svd_solver="full").fit(rows[1])
    assert shares == pytest.approx(theirs.explained_variance_ratio_)
    assert np.abs(scores) == pytest.approx(np.abs(theirs.transform(rows[1])))


def test_a_resample_is_the_gram_matrix_of_those_rows(rows):
    index = np.random.default_rng(1).integers(0, 50, 30)
    assert Gram(rows[0]).resample(index).products == pytest.approx(Gram(rows[0][index]).products)


def test_dimension_is_the_participation_ratio(rows):
    values = np.linalg.eigvalsh(np.cov(rows[0].T))
    found = Gram(rows[0]).effective_dimension()
    assert found.mean() == pytest.approx(values.sum() ** 2 / np.square(values).sum())
    assert (Gram(np.ones((10, 3))).effective_dimension() == 0).all()


def test_influences_give_the_spread_of_half_samples():
    draws = np.random.default_rng(0)
    common = draws.normal(size=(400, 4))
    grams = [Gram(common @ draws.normal(size=(4, 10)) + draws.normal(size=(400, 10))) for _ in range(2)]
    values = cka_input_values(np.stack([g.unit for g in grams]), np.array([[0, 1]]))[0]
    assert values.mean() == pytest.approx(grams[0].cka(grams[1]))
    for statistic, influence in (
        (lambda i: grams[0].resample(i).cka(grams[1].resample(i)), values),
        (lambda i: grams[0].resample(i).effective_dimension().mean(), grams[0].effective_dimension()),
    ):
        halves = [np.array_split(draws.permutation(400), 2) for _ in range(40)]
        spread = np.sqrt(np.mean([(statistic(a) - statistic(b)) ** 2 for a, b in halves])) / 2
        assert influence.std() / np.sqrt(400) == pytest.approx(spread, rel=0.3)


def test_spread_of_the_null_is_exact_for_any_matrices():
    draws = np.random.default_rng(0)
    one, other = (Gram(draws.exponential(size=(12, 3)) ** 2) for _ in range(2))
    null = [one.cka(other.resample(draws.permutation(12))) for _ in range(4000)]
    assert np.mean(null) == pytest.approx(0, abs=0.02)
    assert np.sqrt(np.mean(np.square(null))) == pytest.approx(_null_deviation(12), rel=0.1)


def test_joint_scores_average_to_the_joint_components(rows):
    grams = [Gram(x) for x in rows]
    scores, shares = joint_scores(grams, 2)
    weighed = [(x - x.mean(0)) / np.sqrt(np.trace(g.products)) for x, g in zip(rows, grams, strict=True)]
    whole, _ = Gram(np.concatenate(weighed, axis=1) / np.sqrt(2)).pca(2)
    assert np.abs(np.mean(scores, axis=0)) == pytest.approx(np.abs(whole), abs=1e-9)
    assert all((share > 0).all() and share.sum() < 1 for share in shares)
