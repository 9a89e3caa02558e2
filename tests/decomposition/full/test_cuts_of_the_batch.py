"""A batch cut into micro-batches or over processes gives the losses and gradients of the whole batch."""

import threading
from typing import Any

import pytest
import torch
from torch import Tensor
from written_out import method, tokens

from microtome.core.distributed import Processes
from microtome.decomposition import full_spd
from microtome.decomposition.batch_cuts import equal_cuts, own_rows
from microtome.decomposition.full_spd import FullSPD

EVERY_LOSS: list[dict[str, Any]] = [
    {"name": "faithfulness", "coeff": 0.9},
    {"name": "importance_minimality", "coeff": 0.2, "pnorm": 1.5, "beta": 0.5},
    {"name": "frequency", "coeff": 0.3, "scale": 2.0},
    {"name": "frequency", "coeff": 0.2, "scale": 5.0},
    {"name": "smooth_l0", "coeff": 0.1},
    {"name": "stochastic_recon", "coeff": 1.0, "sites": "subset"},
    {"name": "stochastic_recon", "coeff": 0.8, "sites": "layerwise"},
    {"name": "ci_masked_recon", "coeff": 0.7},
    {"name": "hidden_acts_recon", "coeff": 0.6},
    {"name": "unmasked_recon"},
]
SETTINGS = {"losses": EVERY_LOSS, "use_delta_component": True, "sampling": "binomial", "batch_size": 6}


def assert_same(one: FullSPD, other: FullSPD, found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert set(found) == set(wanted)
    for label, value in wanted.items():
        torch.testing.assert_close(found[label].double(), value.double(), rtol=1e-6, atol=1e-9)
    for name, parameter in other.parameters.items():
        mine = one.parameters[name].grad
        assert (mine is None) == (parameter.grad is None), name
        if mine is not None:
            torch.testing.assert_close(mine, parameter.grad, rtol=1e-7, atol=1e-11)


@pytest.mark.parametrize("parts", [2, 6])
def test_micro_batches_are_one_batch(parts: int) -> None:
    whole, cut = method(**SETTINGS), method(gradient_accumulation_steps=parts, **SETTINGS)
    x = tokens(6)
    wanted, found = whole.compute(x, 4), cut.compute(x, 4)
    assert_same(cut, whole, found, wanted)


class Rendezvous:
    """Sums over threads that stand for processes."""

    def __init__(self, size: int) -> None:
        self.given: list[Tensor | None] = [None] * size
        self.barrier = threading.Barrier(size, timeout=60)

    def sum(self, tensor: Tensor, processes: Processes) -> Tensor:
        self.given[processes.rank] = tensor
        self.barrier.wait()
        total = sum(part for part in self.given if part is not None)
        assert isinstance(total, Tensor)
        self.barrier.wait()
        return total


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("whole_batch_given", [True, False])
def test_processes_are_one_process(
    parts: int, whole_batch_given: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    size, x = 2, tokens(6)
    monkeypatch.setattr(full_spd, "all_reduce_sum", Rendezvous(size).sum)
    whole = method(**SETTINGS)
    wanted = whole.compute(x, 4)
    found: dict[int, tuple[FullSPD, dict[str, Tensor]]] = {}

    def run(rank: int) -> None:
        made = method(gradient_accumulation_steps=parts, **SETTINGS)
        made.processes = Processes(rank, size, rank)
        given = x if whole_batch_given else x[:, own_rows(6, made.processes)]
        found[rank] = made, made.compute(given, 4)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert set(found) == {0, 1}
    for made, values in found.values():
        assert_same(made, whole, values, wanted)


def test_rows_are_shared_out_once_each() -> None:
    for n in range(3, 12):
        for size in range(1, 4):
            cuts = [own_rows(n, Processes(rank, size)) for rank in range(size)]
            assert [i for cut in cuts for i in range(n)[cut]] == list(range(n))
            assert cuts == equal_cuts(n, size)
            assert max(c.stop - c.start for c in cuts) - min(c.stop - c.start for c in cuts) <= 1
    with pytest.raises(ValueError, match="fewer rows than the 4 processes"):
        own_rows(3, Processes(0, 4))
