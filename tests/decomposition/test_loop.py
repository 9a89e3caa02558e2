"""The training loop: the optimiser sees the right gradients, and progress reports change nothing."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from microtome.core.runs import RunFolder
from microtome.core.seeds import generator
from microtome.data.images import ArrayData
from microtome.data.sparse_features import SparseFeatures
from microtome.decomposition import loop
from microtome.decomposition.evaluate import Reporter
from microtome.decomposition.loop import Hooks, Loop
from microtome.decomposition.spd import SPD
from microtome.decomposition.spd_config import SPDConfig
from microtome.targets.config import MLPModelConfig, TMSModelConfig
from microtome.targets.mlp import MLP
from microtome.targets.tms import TMS

QUIET = Hooks(show=False)


class Transposed:
    """A method whose gradients come transposed in memory, as products of matrices may."""

    n_instances = 1

    def __init__(self) -> None:
        self.parameters = {"w": torch.zeros(1, 2, 3, requires_grad=True)}
        self.generator = generator(0)
        self.wanted = torch.arange(6.0).reshape(1, 2, 3)

    def compute(self, x: Tensor, step: int) -> dict[str, Tensor]:
        w = self.parameters["w"]
        difference = w.detach() - self.wanted
        w.grad = (2 * difference).mT.contiguous().mT
        assert w.grad.stride() != w.stride()
        return {"total": difference.square().sum((1, 2))}

    def before_step(self) -> None: ...

    def after_backward(self) -> None: ...


def test_gradients_reach_their_own_weights_whatever_their_layout():
    method = Transposed()
    data = ArrayData(torch.zeros(4, 1))
    config = SPDConfig(steps=600, lr=0.1, batch_size=2, lr_schedule="cosine_half")
    Loop(method, data, config, None, hooks=QUIET).train()
    torch.testing.assert_close(method.parameters["w"].detach(), method.wanted, atol=0.05, rtol=0)


def test_a_checkpoint_that_takes_long_is_not_due_again_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    clock, saved = [0.0], []
    config = SPDConfig(steps=40, batch_size=2, lr=0.1)
    run = RunFolder.create(tmp_path / "run", config, kind="decompose-spd")

    def write(step: int, *_: object) -> None:
        saved.append(step)
        clock[0] += 2 * loop.CHECKPOINT_SECONDS

    monkeypatch.setattr(run, "save_checkpoint", write)
    monkeypatch.setattr(loop.time, "monotonic", lambda: clock[0])
    Loop(Transposed(), ArrayData(torch.zeros(4, 1)), config, run, hooks=QUIET).train()
    assert saved == [0, 40]


def test_saving_holds_no_second_copy_of_what_is_trained():
    method = Transposed()
    config = SPDConfig(steps=2, batch_size=2)
    running = Loop(method, ArrayData(torch.zeros(4, 1)), config, None, hooks=QUIET)
    running.train()
    own, adam = method.parameters["w"], running.optimiser.adam.state[method.parameters["w"]]
    state = running.state()
    assert state["w"].data_ptr() == own.data_ptr()
    assert state["optimizer/w/exp_avg"].data_ptr() == adam["exp_avg"].data_ptr()


def test_faithfulness_falls_on_a_network_with_biases():
    target = MLP(MLPModelConfig(sizes=(12, 8, 5))).reset(0).requires_grad_(False)
    x = torch.rand(256, 12, generator=generator(1))
    config = SPDConfig(C=16, steps=150, lr=1e-2, batch_size=64, output_loss_type="kl", print_freq=150)
    method = SPD(target, config, [0])
    before = method.losses(x[None])["faithfulness"].item()
    Loop(method, ArrayData(x), config, None, hooks=QUIET).train()
    assert method.losses(x[None])["faithfulness"].item() < 0.05 * before


def test_reports_do_not_change_the_run():
    finals = []
    for print_freq in (1, 50):
        target = TMS(TMSModelConfig(n_features=5, n_hidden=2, n_instances=2)).reset(0).requires_grad_(False)
        data = SparseFeatures(2, 5, 0.1)
        config = SPDConfig(C=6, steps=20, batch_size=64, print_freq=print_freq)
        method = SPD(target, config, [0, 1])
        Loop(
            method, data, config, None, hooks=Hooks(show=False, report=Reporter(method, data).report)
        ).train()
        finals.append({name: tensor.detach().clone() for name, tensor in method.parameters.items()})
    for name, tensor in finals[0].items():
        assert torch.equal(tensor, finals[1][name]), name
