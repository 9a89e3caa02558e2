"""Dictionaries trained side by side, and cross-coders, against planted features and the trainer of one."""

import pytest
import torch

from microtome.core.errors import MicrotomeError
from microtome.dictionaries.crosscoder import CrossCoder, fit_crosscoders
from microtome.dictionaries.together import _Stack, fit_together
from microtome.dictionaries.train_config import DictionaryTraining
from microtome.dictionaries.trainer import DictionaryTrainer


def training(**changes):
    values = {
        "architecture": "topk",
        "n_features": 24,
        "k": 3,
        "steps": 40,
        "batch_size": 64,
        "device": "cpu",
    }
    return DictionaryTraining(**{**values, **changes})


def codes(n, features, density, generator):
    return torch.rand(n, features, generator=generator) * (
        torch.rand(n, features, generator=generator) < density
    )


@pytest.mark.parametrize("dead_after", [10**6, 100])
def test_a_step_is_that_of_the_trainer(dead_after):
    """Same start, same batches: the same weights as alone, dead features included."""
    rows = [torch.randn(300, 8), torch.randn(300, 8).relu()]
    config = training(seed=5, dead_after=dead_after, n_features=64, k=2)
    stack = _Stack(rows, config, [5, 5])
    alone = [DictionaryTrainer("activations", config.dictionary(8), config, x) for x in rows]
    for m, trainer in enumerate(alone):
        torch.testing.assert_close(stack.W_dec[m].detach(), trainer.dictionary.W_dec.detach())
    order = _Stack(rows, config, [5, 5]).orders[0]
    revived = False
    for _ in range(5):  # later a rounding error decides what acts
        stack.step()
        batch = order.next()
        for x, trainer in zip(rows, alone, strict=True):
            trainer.step(x[batch])
        revived |= bool(stack.dead.any())
    assert revived == (dead_after == 100)
    for together, trainer in zip(stack.finished(), alone, strict=True):
        for name, value in trainer.finished().state_dict().items():
            torch.testing.assert_close(together.get_parameter(name).detach(), value, rtol=1e-3, atol=1e-4)


def test_fewer_rows_than_columns_are_learned_in_their_span():
    rows = torch.randn(20, 50)
    found = fit_together([rows], training(n_features=12, batch_size=20, steps=200), [0])
    dictionary = found.dictionaries[0]
    assert dictionary.W_dec.shape == (12, 50)
    torch.testing.assert_close(dictionary.W_dec.norm(dim=1), torch.ones(12))
    span = torch.linalg.qr(rows.T).Q
    torch.testing.assert_close(dictionary.W_dec @ span @ span.T, dictionary.W_dec, atol=1e-5, rtol=0)
    left = (dictionary(rows) - rows).square().sum() / (rows - rows.mean(0)).square().sum()
    assert float(left) == pytest.approx(float(found.fvu[0, -1]), abs=0.05)


def test_only_topk_can_be_trained_together():
    with pytest.raises(MicrotomeError, match="architecture='relu'"):
        fit_together([torch.randn(9, 4)], training(architecture="relu"), [0])


def test_a_crosscoder_finds_whose_features_they_are():
    """Two models with 12 features in common and 8 of their own each, in random directions."""
    g = torch.Generator().manual_seed(0)
    common, own_a, own_b = (codes(4000, n, 0.15, g) for n in (12, 8, 8))
    directions = [
        torch.nn.functional.normalize(torch.randn(n, 32, generator=g), dim=1) for n in (12, 8, 12, 8)
    ]
    a = common @ directions[0] + own_a @ directions[1]
    b = 5 * (common @ directions[2] + own_b @ directions[3])  # another scale changes nothing
    config = training(n_features=40, k=6, steps=300, batch_size=256)
    coder = fit_crosscoders([{"a": a, "b": b}], config, [0])[0]
    f = coder.encode({"a": a, "b": b})
    ratio = coder.norm_ratio()[(f > 0).any(0)]
    assert int((ratio < 0.1).sum()) == 8 and int((ratio > 0.9).sum()) == 8
    decoded = coder.decode(f)
    for name, x in (("a", a), ("b", b)):
        assert float((decoded[name] - x).square().sum() / (x - x.mean(0)).square().sum()) < 0.05


def test_a_crosscoder_wants_the_same_inputs():
    coder = fit_crosscoders([{"a": torch.randn(80, 8), "b": torch.randn(80, 8)}], training(steps=2), [0])[0]
    assert isinstance(coder, CrossCoder)
    with pytest.raises(MicrotomeError, match="none of b"):
        coder.encode({"a": torch.randn(3, 8)})
    with pytest.raises(MicrotomeError, match="unequal"):
        coder.encode({"a": torch.randn(3, 8), "b": torch.randn(4, 8)})
