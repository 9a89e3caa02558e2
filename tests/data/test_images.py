import numpy as np
import pytest
import torch

from microtome.core.errors import CannotLoad, MicrotomeError
from microtome.core.seeds import generator
from microtome.data.images import ArrayData, digits
from microtome.data.loading import data_from_spec


def test_digits_are_split_once_and_for_all() -> None:
    train, test = digits()
    assert len(train.x) + len(test.x) == 1797 and train.x.shape[1] == 64
    assert train.x.min() == 0 and train.x.max() == 1
    assert train.y is not None and test.y is not None
    shares = test.y.bincount() / (test.y.bincount() + train.y.bincount())
    assert len(shares) == 10 and (shares - 0.2).abs().max() < 0.01
    again = digits()
    assert torch.equal(again.test.x, test.x)
    together = torch.cat([train.x, test.x])
    assert len(torch.unique(together, dim=0)) == 1797  # no image is in both halves


def test_rows_keep_their_labels() -> None:
    data = ArrayData.from_arrays(np.arange(12.0).reshape(6, 2), np.arange(6))
    x, y = data.labelled_batch(50, generator(0), 3)
    assert x.shape == (3, 50, 2) and x.dtype == torch.float32
    assert torch.equal(x[..., 0], 2.0 * y)
    assert set(y.flatten().tolist()) == set(range(6))
    assert not torch.equal(x[0], x[1])


def test_specs() -> None:
    test = digits().test
    again = data_from_spec(test.spec())
    assert torch.equal(again.batch(9, generator(1), 2), test.batch(9, generator(1), 2))
    with pytest.raises(CannotLoad, match="data="):
        data_from_spec(ArrayData(torch.zeros(3, 2)).spec())
    with pytest.raises(CannotLoad, match="unknown"):
        data_from_spec({"kind": "tea_leaves"})


@pytest.mark.parametrize(
    ("x", "y", "problem"),
    [([], None, "no rows"), ([[1.0, float("nan")]], None, "NaN"), ([[1.0], [2.0]], [1], "1 labels for 2")],
)
def test_bad_arrays(x: list, y: list | None, problem: str) -> None:
    with pytest.raises(MicrotomeError, match=problem):
        ArrayData.from_arrays(x, y)


def test_missing_labels() -> None:
    with pytest.raises(MicrotomeError, match="no labels"):
        ArrayData(torch.zeros(3, 2)).labelled_batch(2)
