"""Runs of the full step from a configuration to a loaded decomposition."""

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

import microtome
from microtome.core.errors import CannotLoad
from microtome.data.images import ArrayData
from microtome.decomposition.component_model import ComponentModel, MaskInfo
from microtome.decomposition.full_spd import FullSPD, evaluation_step
from microtome.decomposition.jobs import Job, build_method
from microtome.decomposition.loss_configs import AnyLoss
from microtome.decomposition.losses.registry import loss_function
from microtome.decomposition.masks import Draws
from microtome.decomposition.result import Decomposition
from microtome.decomposition.spd import SPD
from microtome.decomposition.spd_config import SPDConfig
from microtome.targets.config import TMSModelConfig
from microtome.targets.module_target import ModuleTarget
from microtome.targets.tms import TMS


class Words(nn.Module):
    """Tokens in, tokens out, by the embedding itself."""

    def __init__(self, vocabulary: int = 6, width: int = 4) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.mlp = nn.Linear(width, width)
        self.unembed = nn.Linear(width, vocabulary, bias=False)
        self.unembed.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        return self.unembed(h + torch.tanh(self.mlp(h)))


SETTINGS: dict[str, Any] = {
    "module_info": [{"module_pattern": "embed", "C": 5}, {"module_pattern": "*", "C": 3}],
    "ci_fn_type": "shared_mlp",
    "ci_fn_mode": "global",
    "ci_fn_hidden_dims": [4],
    "sigmoid_type": "leaky_hard",
    "use_delta_component": True,
    "output_loss_type": "kl",
    "losses": [
        {"name": "stochastic_recon", "coeff": 1.0},
        {"name": "importance_minimality", "coeff": 0.01, "beta": 0.2},
    ],
    "steps": 4,
    "batch_size": 8,
    "pictures": False,
    "print_freq": 2,
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Decomposition, Tensor]:
    torch.manual_seed(0)
    x = torch.randint(6, (30, 5))
    d = microtome.decompose(Words(), data=x, out_dir=tmp_path_factory.mktemp("run") / "run", config=SETTINGS)
    return d, x[:7].unsqueeze(0)


def test_a_loaded_run_is_what_was_trained(found: tuple[Decomposition, Tensor]) -> None:
    d, x = found
    assert {name: left.shape[1] for name, (left, _) in d.factors.items()} == {
        "embed": 5,
        "mlp": 3,
        "unembed": 5,
    }
    assert d.sites["unembed"].tied_to == "embed"
    assert d.sigmoid_type == "leaky_hard"
    assert d.run is not None and {"stochastic_recon", "importance_minimality", "total"} <= set(
        d.run.metrics()[-1]
    )
    step = evaluation_step(d, x, Draws(0))
    importances = d.causal_importances(x)
    assert importances is not None
    for name, calls in step.lower.items():
        torch.testing.assert_close(importances[name].lower, calls[0].flatten(1, 2))
        torch.testing.assert_close(importances[name].inner, step.inner[name][0].flatten(1, 2))
        assert not calls[0].requires_grad
    torch.testing.assert_close(step.output, d.target(x))


def test_forward_is_the_sum_of_the_components(found: tuple[Decomposition, Tensor]) -> None:
    d, x = found
    module = Words()
    with torch.no_grad():
        for name in ("embed", "mlp", "unembed"):
            summed = d.component_weights(name)[0].sum(0)
            layer = module.get_submodule(name)
            layer.weight = nn.Parameter(summed if name == "embed" else summed.mT.clone())
        bias = d.sites["mlp"].bias
        assert bias is not None
        module.mlp.bias.copy_(bias[0])
        torch.testing.assert_close(d.forward(x)[0], module(x[0]))


def test_the_component_model_says_the_same(found: tuple[Decomposition, Tensor]) -> None:
    d, x = found
    model = ComponentModel(d)
    output, cache = model(x[0], cache_type="input")
    torch.testing.assert_close(output, d.target(x)[0])
    importances = d.causal_importances(x)
    assert importances is not None
    outputs = model.calc_causal_importances(cache)
    masks: dict[str, Tensor] = {}
    for name, ci in importances.items():
        torch.testing.assert_close(outputs.pre_sigmoid[name].flatten(0, 1), ci.gate[0])
        masks[name] = outputs.lower_leaky[name]
    masked = model(x[0], mask_infos={name: MaskInfo(mask) for name, mask in masks.items()})
    torch.testing.assert_close(masked, d.forward(x, {n: m.unsqueeze(0) for n, m in masks.items()})[0])
    deltas = model.calc_weight_deltas()
    ones = {
        n: MaskInfo(torch.ones(5 if n != "mlp" else 3), None, (w, torch.ones(()))) for n, w in deltas.items()
    }
    torch.testing.assert_close(model(x[0], mask_infos=ones), output, atol=1e-5, rtol=1e-4)


def test_every_loss_that_can_be_configured_is_computed() -> None:
    for kind in get_args(AnyLoss):
        assert callable(loss_function(kind()))


def job(**settings: object) -> Job:
    target = TMS(TMSModelConfig(n_features=4, n_hidden=2, n_instances=1))
    config = SPDConfig.from_mapping({"C": 3, "device": "cpu", **settings})
    return Job.of(config, target, ArrayData(torch.rand(10, 4)))


def test_the_fast_step_is_taken_where_it_can_be() -> None:
    assert isinstance(build_method(job()), SPD)
    assert isinstance(build_method(job(gradient_accumulation_steps=2)), FullSPD)
    assert isinstance(build_method(job(losses=[{"name": "smooth_l0", "coeff": 1.0}])), FullSPD)


def test_a_run_starts_from_another_one(found: tuple[Decomposition, Tensor]) -> None:
    d, _ = found
    assert d.run is not None
    config = SPDConfig.from_mapping({**SETTINGS, "init_spd_checkpoint": str(d.run.path)})
    words = ModuleTarget(Words())
    data = ArrayData(torch.randint(6, (10, 5)))
    method = build_method(Job.of(config, words, data))
    for name, tensor in method.parameters.items():
        torch.testing.assert_close(tensor.detach(), d.parameters[name])
    other = SPDConfig.from_mapping({**config.as_dict(), "ci_fn_hidden_dims": [3]})
    with pytest.raises(CannotLoad, match=r"init_spd_checkpoint=.*should have shape"):
        build_method(Job.of(other, words, data))


def test_bfloat16_stays_near_single_precision() -> None:
    settings = {"losses": SETTINGS["losses"], "use_delta_component": True, "output_loss_type": "kl"}
    torch.manual_seed(1)
    words = Words()
    x = torch.randint(6, (1, 8, 5))
    found: list[FullSPD] = []
    for half in (False, True):
        config = SPDConfig.from_mapping({**settings, "autocast_bf16": half})
        made = FullSPD(ModuleTarget(words), config, [0])
        value = made.compute(x, 0)["total"]
        assert value.dtype == torch.float32
        found.append(made)
    single, half = found
    for name, parameter in single.parameters.items():
        other = half.parameters[name].grad
        assert parameter.grad is not None and other is not None and other.dtype == torch.float32
        assert float((other - parameter.grad).norm()) < 0.1 * float(parameter.grad.norm()) + 1e-6, name


def test_several_instances_share_a_run_with_a_global_function(tmp_path: Path) -> None:
    d = microtome.decompose(
        TMS(TMSModelConfig(n_features=4, n_hidden=2, n_instances=2)),
        data=torch.rand(40, 4),
        out_dir=tmp_path / "run",
        config={**SETTINGS, "output_loss_type": "mse", "module_info": None, "gradient_accumulation_steps": 2},
    )
    assert d.n_instances == 2 and d.importance_functions is not None and d.importance_functions.is_global
