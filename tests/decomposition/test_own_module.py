"""A module of somebody's own through ``microtome.decompose``."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import (
    SHORT,
    Classifier,
    Patch,
    interrupt_at,
    rows,
)
from torch import nn

import microtome
from microtome.core.errors import MicrotomeError
from microtome.data.images import ArrayData
from microtome.decomposition.decompose import resume
from microtome.decomposition.losses.reconstruction import reconstruction_loss

pytestmark = pytest.mark.usefixtures("without_pictures")


@pytest.mark.parametrize("loss", ["kl", "mse"])
def test_my_own_module(loss: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, x = Classifier(), rows()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    module.head.bias.grad = torch.full((3,), 7.0)
    result = microtome.decompose(
        module, data=x, sites=["inner", "he*"], output_loss_type=loss, out_dir=tmp_path / "run", **SHORT
    )
    assert module.training and all(p.requires_grad for p in module.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert module.inner.weight.grad is None and torch.equal(module.head.bias.grad, torch.full((3,), 7.0))
    assert list(result.sites) == ["inner", "head"]
    assert "forward" not in vars(module.inner)

    again = microtome.load(tmp_path / "run", module=Classifier())
    torch.testing.assert_close(again.forward(x[None]), result.forward(x[None]))
    torch.testing.assert_close(again.target(x[None])[0], module.eval()(x))
    found = result.causal_importances(x[None])
    assert found is not None and found["inner"].lower.shape == (1, len(x), 6)
    rows_logged = result.run.metrics() if result.run is not None else []
    assert rows_logged[-1]["faithfulness"][0] < rows_logged[0]["faithfulness"][0]


def test_the_kl_loss_is_that_of_the_softmax(tmp_path: Path) -> None:
    """One step's ``recon`` under fixed masks, worked out from logits in float64."""
    module, x = Classifier().eval(), rows()
    result = microtome.decompose(
        module, data=x, output_loss_type="kl", out_dir=tmp_path / "run", **{**SHORT, "steps": 2}
    )
    found = result.causal_importances(x[None])
    assert found is not None and result.run is not None
    out = result.forward(x[None], {name: ci.lower for name, ci in found.items()})[0].double()
    wanted = module(x).detach().double()
    p = torch.softmax(wanted, -1)
    expected = (p * (p.log() - torch.log_softmax(out, -1))).sum(-1).mean()
    got = reconstruction_loss(out[None], wanted[None], torch.ones(1, len(x)).double(), len(x), "kl")
    torch.testing.assert_close(got[0], expected)


def test_apd_of_my_own_module(tmp_path: Path) -> None:
    module, x = Classifier(), rows()
    result = microtome.decompose(
        module,
        "apd",
        data=x,
        sites=["inner"],
        topk=2,
        m=2,
        topk_recon_coeff=1,
        out_dir=tmp_path / "r",
        **SHORT,
    )
    assert list(result.sites) == ["inner"] and result.method == "apd"
    assert result.component_weights("inner").shape == (1, 6, 8, 12)
    torch.testing.assert_close(
        microtome.load(tmp_path / "r", module=Classifier()).forward(x[None]), result.forward(x[None])
    )


def test_a_run_on_my_own_data_resumes_when_they_are_given_again(tmp_path: Path, monkeypatch: Patch) -> None:
    module = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    whole = microtome.decompose(module, data=rows(), out_dir=tmp_path / "whole", **SHORT)
    with monkeypatch.context() as patch:
        interrupt_at(12, patch)
        with pytest.raises(KeyboardInterrupt):
            microtome.decompose(module, data=rows(), out_dir=tmp_path / "run", **SHORT)
    with pytest.raises(MicrotomeError, match=r"given in memory .* pass them again"):
        resume(tmp_path / "run", progress=False)
    resume(tmp_path / "run", progress=False, data=ArrayData(rows()))
    again = microtome.load(tmp_path / "run")
    assert all(torch.equal(whole.parameters[name], tensor) for name, tensor in again.parameters.items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": None}, "data=None"),
        ({"sites": ["layers.*"]}, "matches no site; there are: inner, head"),
        ({"data": torch.full((4, 8), torch.nan)}, "NaN"),
        ({"data": torch.rand(0, 8)}, "no rows"),
        ({"method": "sdp"}, "method='sdp'"),
        ({"coefficients": 3}, "coefficients"),
    ],
)
def test_a_call_that_cannot_be(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(MicrotomeError, match=re.escape(message)) as error:
        microtome.decompose(
            Classifier(), **{"data": rows(), "out_dir": tmp_path / "run", **SHORT, **settings}
        )
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_module_with_nan_is_refused(tmp_path: Path) -> None:
    module = Classifier()
    module.inner.weight.data[0, 0] = torch.nan
    with pytest.raises(MicrotomeError, match="hold NaN or infinity"):
        microtome.decompose(module, data=rows(), out_dir=tmp_path / "run", **SHORT)
    assert not (tmp_path / "run").exists()


class Parts(Classifier):
    def forward(self, x: Any) -> Any:
        logits = super().forward(x)
        return (
            {"logits": logits, "rest": (logits + 1, logits)}[self.part] if self.part else {"logits": logits}
        )

    part = ""


@pytest.mark.parametrize(("part", "output"), [("", "logits"), ("rest", 1)])
def test_a_module_that_returns_more_than_a_tensor(part: str, output: str | int, tmp_path: Path) -> None:
    module, x = Parts(), rows()
    module.part = part
    found = microtome.decompose(module, data=x.numpy(), output=output, out_dir=tmp_path / "run", **SHORT)
    torch.testing.assert_close(found.target(x[None])[0], Classifier.forward(module.eval(), x))


@pytest.mark.parametrize(
    ("change", "data", "message"),
    [
        (lambda m: m.double(), rows().double(), "inner=torch.float64: not single precision"),
        (lambda m: m, torch.rand(9, 5), "data: the module cannot run on torch.float32 of shape [n, 5]"),
    ],
)
def test_a_module_and_data_that_do_not_fit(change: Any, data: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(MicrotomeError, match=re.escape(message)):
        microtome.decompose(change(Classifier()), data=data, out_dir=tmp_path / "run", **SHORT)
    assert not (tmp_path / "run").exists()


def test_a_module_that_its_description_cannot_make_again(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(8, 4), nn.Hardtanh(-2, 2))
    found = microtome.decompose(module, data=rows(), out_dir=tmp_path / "run", **SHORT)
    with pytest.raises(MicrotomeError, match="pass the module yourself"):
        microtome.load(tmp_path / "run")
    x = rows()[None]
    torch.testing.assert_close(microtome.load(tmp_path / "run", module=module).forward(x), found.forward(x))
