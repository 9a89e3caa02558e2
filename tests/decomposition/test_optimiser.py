"""Rates and clipping of the two groups, the warm-up, and evaluation rows of the loop."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from microtome.core.runs import RunFolder
from microtome.data.sparse_features import SparseFeatures
from microtome.decomposition.config import config_from_mapping
from microtome.decomposition.full_spd import FullSPD
from microtome.decomposition.loop import Hooks, Loop
from microtome.decomposition.optimiser import Optimiser, clip_gradients
from microtome.decomposition.spd import SPD
from microtome.decomposition.spd_config import SPDConfig
from microtome.decomposition.warm_up import faithfulness_warm_up
from microtome.targets.config import TMSModelConfig
from microtome.targets.tms import TMS


def target(k: int = 2) -> TMS:
    model = TMS(TMSModelConfig(n_features=5, n_hidden=2, n_instances=k))
    return model.reset(0).requires_grad_(False)


def config(**values: Any) -> SPDConfig:
    found = config_from_mapping({"C": 6, "steps": 12, "batch_size": 32, "print_freq": 4, **values})
    assert isinstance(found, SPDConfig)
    return found


def leaves(seed: int = 0) -> dict[str, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    shapes = {"components.a.V": (3, 4, 5), "components.a.U": (3, 5, 2), "gates.a.w_in": (3, 5, 7)}
    found = {name: torch.randn(shape, generator=draws).requires_grad_() for name, shape in shapes.items()}
    for tensor in found.values():
        tensor.grad = torch.randn(tensor.shape, generator=draws)
    return found


def test_each_instance_is_clipped_as_if_it_were_alone():
    members = list(leaves().values())
    sizes = torch.tensor([0.01, 1.0, 100.0])
    for member in members:
        assert member.grad is not None
        member.grad *= sizes.view(-1, 1, 1)
    wanted = []
    for k in range(3):
        alone = [member.detach()[k].clone().requires_grad_() for member in members]
        for one, member in zip(alone, members, strict=True):
            assert member.grad is not None
            one.grad = member.grad[k].clone()
        torch.nn.utils.clip_grad_norm_(alone, 0.5)
        wanted.append([one.grad for one in alone])
    clip_gradients(members, 0.5)
    for i, member in enumerate(members):
        torch.testing.assert_close(member.grad, torch.stack([row[i] for row in wanted]))


def test_subcomponents_and_gates_have_rates_and_limits_of_their_own():
    own = {"start_val": 0.2, "fn_type": "linear", "final_val_frac": 0.5}
    made = config(ci_fns_lr_schedule=own, lr=0.1, lr_schedule="cosine_half", grad_clip_norm_ci_fns=1e-3)
    parameters = leaves()
    optimiser = Optimiser(parameters, made)
    for step in range(12):
        optimiser.set_rates(step)
        cosine = 0.1 * 0.5 * (1 + np.cos(np.pi * step / 11))
        np.testing.assert_allclose(optimiser.rates["lr/components"], cosine, atol=1e-12)
        np.testing.assert_allclose(optimiser.rates["lr/ci_fns"], 0.2 * (1 - 0.5 * step / 11))
    before = {name: tensor.grad.clone() for name, tensor in parameters.items() if tensor.grad is not None}
    optimiser.step()
    changed = [name for name, tensor in parameters.items() if not torch.equal(tensor.grad, before[name])]
    assert changed == ["gates.a.w_in"]
    assert Optimiser(leaves(), config()).rates == {"lr": config().lr}


@pytest.mark.parametrize("kind", [SPD, FullSPD])
def test_the_warm_up_moves_the_subcomponents_towards_the_weights(kind: type[SPD] | type[FullSPD]):
    made = config(
        faithfulness_warmup_steps=40, faithfulness_warmup_lr=0.01, faithfulness_warmup_weight_decay=0.1
    )
    method = kind(target(), made, [0, 1])
    start = {name: tensor.detach().clone() for name, tensor in method.parameters.items()}
    # The slow way: one site by hand, untouched by the other instance, by plain AdamW.
    v, u = (start[f"components.linear1.{part}"][1].clone().requires_grad_() for part in "VU")
    w = method.network.sites["linear1"].weight[1]
    adam, first = torch.optim.AdamW([v, u], lr=0.01, weight_decay=0.1), None
    for _ in range(40):
        adam.zero_grad()
        loss = (w - v @ u).square().sum() / w.numel()
        first = loss.item() if first is None else first
        loss.backward()
        adam.step()
    last = faithfulness_warm_up(method, made)
    assert last is not None and first is not None
    np.testing.assert_allclose(last[1].item(), loss.item(), rtol=1e-4)
    assert last[1].item() < 0.2 * first
    torch.testing.assert_close(method.parameters["components.linear1.V"][1], v, rtol=1e-4, atol=1e-6)
    for name, tensor in method.parameters.items():
        assert torch.equal(tensor, start[name]) == name.startswith("gates.")
        assert tensor.grad is None


def test_evaluations_come_when_they_are_due_and_change_nothing(tmp_path):
    finals = []
    for name, frequency in (("with", 3), ("without", None)):
        made = config(eval_freq=frequency, slow_eval_freq=6)
        method, asked = SPD(target(), made, [0, 1]), []

        def evaluate(step: int, slow: bool, asked: list[Any] = asked) -> dict[str, Any]:
            asked.append((step, slow))
            torch.rand(3)
            return {"eval/number": float(step)}

        run = RunFolder.create(tmp_path / name, made, kind="decompose-spd")
        hooks = Hooks(show=False, evaluate=evaluate)
        Loop(method, SparseFeatures(2, 5, 0.2), made, run, hooks=hooks).train()
        finals.append(method.parameters)
        rows = {row["step"]: row for row in run.metrics()}
        told = [step for step, row in rows.items() if "eval/number" in row]
        if frequency is None:
            assert asked == [] == told
            continue
        assert asked == [(0, True), (3, False), (6, True), (9, False), (12, True)]
        assert told == [0, 3, 6, 9, 12] and sorted(rows) == [0, 1, 3, 4, 6, 8, 9, 12]
        assert "total" in rows[12] and "total" not in rows[3]
    assert all(torch.equal(finals[0][name], finals[1][name]) for name in finals[0])
