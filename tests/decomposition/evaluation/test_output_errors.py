"""Errors of outputs, against loops over every position and class."""

import math

import pytest
import torch
from torch import Tensor

from microtome.decomposition.evaluation import output_errors as module
from microtome.decomposition.evaluation.output_errors import NO_LABEL, next_tokens, output_errors


def log_softmax(row: list[float]) -> list[float]:
    total = math.log(sum(math.exp(v) for v in row))
    return [v - total for v in row]


def cases(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    output, wanted = torch.randn(2, 2, 3, 4, 5, generator=draws)
    labels = torch.randint(5, (2, 3, 4), generator=draws)
    labels[0, 0, 1] = labels[1, :, 3] = NO_LABEL
    return output, wanted, labels


@pytest.mark.parametrize("at_once", [8_000_000, 15, 1])
def test_kl_cross_entropy_and_accuracy(at_once: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MAX_NUMBERS", at_once)
    output, wanted, labels = cases()
    found = output_errors(output, wanted, labels, "kl")
    for k in range(2):
        kl = ce = hits = known = 0.0
        for b in range(3):
            for t in range(4):
                q, p = log_softmax(output[k, b, t].tolist()), log_softmax(wanted[k, b, t].tolist())
                kl += sum(math.exp(a) * (a - c) for a, c in zip(p, q, strict=True))
                y = int(labels[k, b, t])
                if y != NO_LABEL:
                    known += 1
                    ce -= q[y]
                    hits += max(range(5), key=q.__getitem__) == y
        assert found["kl"][k] == pytest.approx(kl / 12, rel=1e-5)
        assert found["ce"][k] == pytest.approx(ce / known, rel=1e-5)
        assert found["accuracy"][k] == pytest.approx(hits / known)


def test_mean_squared_error():
    output, wanted, _ = cases(1)
    found = output_errors(output, wanted, None, "mse")
    assert set(found) == {"mse"}
    for k in range(2):
        pairs = zip(output[k].flatten().tolist(), wanted[k].flatten().tolist(), strict=True)
        assert found["mse"][k] == pytest.approx(sum((a - b) ** 2 for a, b in pairs) / 60, rel=1e-5)


def test_each_token_is_labelled_by_the_one_that_follows():
    assert next_tokens(torch.tensor([[[4, 2, 7]]])).tolist() == [[[2, 7, NO_LABEL]]]


def test_narrow_numbers_are_measured_in_single_precision():
    torch.manual_seed(0)
    output, wanted = (torch.randn(1, 6, 50).bfloat16() for _ in range(2))
    labels = torch.randint(50, (1, 6))
    narrow = output_errors(output, wanted, labels, "kl")
    exact = output_errors(output.float(), wanted.float(), labels, "kl")
    assert all(narrow[name].equal(value) for name, value in exact.items())
