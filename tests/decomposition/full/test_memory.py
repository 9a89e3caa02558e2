"""What autograd keeps during a step: one pass at a time, however many passes there are."""

import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from written_out import method, tokens


class _Kept:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class Meter:
    """Elements that graphs hold, now and at most."""

    def __init__(self) -> None:
        self.now = self.peak = 0

    def pack(self, tensor: Tensor) -> _Kept:
        kept, n = _Kept(tensor), tensor.numel()
        self.now += n
        self.peak = max(self.peak, self.now)
        weakref.finalize(kept, self.free, n)
        return kept

    def free(self, n: int) -> None:
        self.now -= n


def peak_of(step: Callable[[], object]) -> int:
    meter = Meter()
    with saved_tensors_hooks(meter.pack, lambda kept: kept.tensor):
        step()
    assert meter.now == 0, "a graph outlived the step"
    return meter.peak


def peak(rows: int = 8, **settings: object) -> int:
    made, x = method(**settings), tokens(rows)
    return peak_of(lambda: made.compute(x, 0))


STOCHASTIC = {"name": "stochastic_recon", "coeff": 1.0}


@pytest.mark.parametrize("delta", [False, True])
def test_passes_follow_each_other(delta: bool) -> None:
    one = peak(losses=[STOCHASTIC], use_delta_component=delta)
    many = [{**STOCHASTIC}, {**STOCHASTIC}, {**STOCHASTIC, "sites": "layerwise"}]
    assert peak(losses=many, use_delta_component=delta, n_mask_samples=3) <= one


def test_micro_batches_divide_what_is_kept() -> None:
    whole = peak(losses=[STOCHASTIC])
    cut = peak(losses=[STOCHASTIC], gradient_accumulation_steps=4, batch_size=8)
    assert cut < 0.4 * whole


def test_what_is_only_reported_keeps_nothing() -> None:
    faithful = {"name": "faithfulness", "coeff": 1.0}
    only = peak(losses=[faithful])
    assert peak(losses=[faithful, {"name": "stochastic_recon"}, {"name": "hidden_acts_recon"}]) <= only


def test_the_meter_sees_a_graph_that_lives_on() -> None:
    x = torch.randn(50, requires_grad=True)

    def both() -> list[Tensor]:
        return [x.exp(), x.exp()]

    with pytest.raises(AssertionError, match="outlived"):
        held: list[Tensor] = []
        peak_of(lambda: held.extend(both()))
