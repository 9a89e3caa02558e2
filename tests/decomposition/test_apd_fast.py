"""APD's closed forms and kernels give the losses and all gradients of the equations as they stand."""

import pytest
import torch
from torch import Tensor

from microtome.decomposition import apd_tms
from microtome.decomposition.apd import APD
from microtome.decomposition.apd_config import APDConfig
from microtome.decomposition.kernels import apd as kernels
from microtome.targets.config import MLPModelConfig, ResidMLPModelConfig, TMSModelConfig
from microtome.targets.mlp import MLP
from microtome.targets.network import Target
from microtome.targets.resid_mlp import ResidMLP
from microtome.targets.tms import TMS

BASE = {
    "batch_size": 32,
    "steps": 1,
    "print_freq": 1,
    "lr": 0.1,
    "C": 6,
    "topk": 1.3,
    "topk_recon_coeff": 3.0,
    "schatten_coeff": 0.7,
    "schatten_pnorm": 0.9,
}
VARIANTS = {
    "topk": {},
    "out_recon": {"out_recon_coeff": 0.5},
    "distil": {"distil_from_target": True, "topk": 0.8},
    "per_sample": {"batch_topk": False, "topk": 2.0},
    "exact": {"exact_topk": True},
    "nearly_all": {"topk": 5.9},
    "one_pair": {"topk": 0.04},
    "no_recon": {"topk_recon_coeff": None},
    "no_match": {"param_match_coeff": None},
    "unit_norm": {"unit_norm_matrices": True},
}


def _x(n_instances: int, n: int, p: float, dtype: torch.dtype) -> Tensor:
    g = torch.Generator().manual_seed(5)
    values = torch.rand(n_instances, 32, n, generator=g, dtype=torch.float64)
    return (values * (torch.rand(n_instances, 32, n, generator=g) < p)).to(dtype)


def _step(target: Target, settings: dict[str, object], x: Tensor, plain: bool) -> dict[str, Tensor]:
    method = APD(target, APDConfig.from_mapping({**BASE, **settings}), plain=plain)
    assert plain or method.fast is not None
    for parameter in method.parameters.values():
        parameter.data.mul_(3.0)
    method.before_step()
    results = method.compute(x, 0)
    method.after_backward()
    for name, parameter in method.parameters.items():
        assert parameter.grad is not None
        results[f"gradient of {name}"] = parameter.grad.clone()
    return results


def _assert_equal(target: Target, settings: dict[str, object], x: Tensor) -> None:
    plain, fast = _step(target, settings, x, True), _step(target, settings, x, False)
    assert plain.keys() == fast.keys()
    tolerance = 1e-10 if x.dtype == torch.float64 else 1e-4
    for name, expected in plain.items():
        scale = expected.abs().max().item()
        torch.testing.assert_close(fast[name], expected, rtol=0, atol=tolerance * scale + 1e-30, msg=name)


def _tms(dtype: torch.dtype, **settings: object) -> TMS:
    config = {"n_features": 7, "n_hidden": 3, "n_instances": 3, **settings}
    target = TMS(TMSModelConfig.from_mapping(config)).reset(3).to(dtype)
    with torch.no_grad():
        target.b_final.copy_(torch.randn(3, 7, generator=torch.Generator().manual_seed(1)) * 0.05)
    return target


@pytest.fixture(params=["kernel", "torch"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "torch":
        monkeypatch.setattr(apd_tms.kernels, "available", lambda x: False)
    elif not kernels.available(torch.zeros(1)):
        pytest.skip("no C compiler here")
    return request.param


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("model", ["target", "decomposed"])
@pytest.mark.parametrize("shape", [{}, {"tied_weights": False}, {"n_hidden_layers": 2}])
def test_tms_equals_the_plain_equations(
    variant: str, model: str, shape: dict[str, object], backend: str
) -> None:
    settings = {**VARIANTS[variant], "attribution_model": model}
    _assert_equal(_tms(torch.float64, **shape), settings, _x(3, 7, 0.15, torch.float64))


@pytest.mark.parametrize("p", [0.0, 0.005, 1.0])
def test_tms_equals_the_plain_equations_however_many_features_are_on(p: float, backend: str) -> None:
    """No active pair at all, fewer than are wanted, and everything on: ties and zeros are chosen alike."""
    _assert_equal(_tms(torch.float64), {}, _x(3, 7, p, torch.float64))


def test_tms_in_single_precision(backend: str) -> None:
    _assert_equal(_tms(torch.float32), {}, _x(3, 7, 0.2, torch.float32))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("n_layers", [1, 3])
@pytest.mark.parametrize("model", ["target", "decomposed"])
def test_resid_mlp_equals_the_plain_equations(variant: str, n_layers: int, model: str) -> None:
    config = ResidMLPModelConfig(n_features=9, d_embed=11, d_mlp=5, n_layers=n_layers, n_instances=2)
    target = ResidMLP(config, fixed_embedding=True).reset(3, embedding="random").double()
    settings = {"act_recon_coeff": 0.8, **VARIANTS[variant], "attribution_model": model}
    _assert_equal(target, settings, _x(2, 9, 0.08, torch.float64) * 2)


@pytest.mark.parametrize(
    "extra", [{"act_fn_name": "gelu"}, {"in_bias": True, "out_bias": True}, {"apply_output_act_fn": True}]
)
@pytest.mark.parametrize("shared", [True, False])
def test_resid_mlp_with_gelu_biases_and_output_activation(extra: dict[str, object], shared: bool) -> None:
    values = {"n_features": 9, "d_embed": 11, "d_mlp": 5, "n_layers": 2, "n_instances": 2, **extra}
    target = ResidMLP(ResidMLPModelConfig.from_mapping(values), shared_embedding=shared)
    target.reset(3, initialisation="linear", embedding="random").double()
    _assert_equal(target, {"act_recon_coeff": 0.8}, _x(2, 9, 0.08, torch.float64))


def test_resid_mlp_without_any_active_input() -> None:
    config = ResidMLPModelConfig(n_features=9, d_embed=11, d_mlp=5)
    target = ResidMLP(config, fixed_embedding=True).reset(3, embedding="random").double()
    _assert_equal(target, {"act_recon_coeff": 0.8}, torch.zeros(1, 32, 9, dtype=torch.float64))


def test_an_instance_trains_the_same_alone_and_among_others() -> None:
    target, x = _tms(torch.float64), _x(3, 7, 0.2, torch.float64)
    together, alone = _step(target, {}, x, False), _step(target.select([0]), {}, x[:1], False)
    for name, expected in alone.items():
        torch.testing.assert_close(together[name][:1], expected, rtol=1e-9, atol=1e-15)


def test_nan_in_the_components_reaches_the_loss(backend: str) -> None:
    target = _tms(torch.float32)
    method = APD(target, APDConfig.from_mapping(BASE))
    with torch.no_grad():
        method.parameters["linear1.B"][0].fill_(float("nan"))
    total = method.compute(_x(3, 7, 0.2, torch.float32), 0)["total"]
    assert total[0].isnan() and total[1:].isfinite().all()


def test_other_networks_and_the_lp_variant_use_the_plain_equations() -> None:
    mlp = MLP(MLPModelConfig(sizes=(4, 3, 2), n_instances=2)).reset(0)
    method = APD(mlp, APDConfig.from_mapping({**BASE, "act_recon_coeff": 1.0}))
    assert method.fast is None
    losses = method.compute(torch.rand(2, 32, 4), 0)
    assert set(losses) == {"param_match", "topk_recon", "act_recon", "schatten", "total"}
    assert all(loss.shape == (2,) for loss in losses.values())


def test_lp_gradients_reach_the_components_through_their_own_site_only() -> None:
    """The Jacobian and the inputs are the target's; only P_c inside the attribution carries a gradient."""
    target, x = _tms(torch.float64), _x(3, 7, 0.3, torch.float64)
    settings = {
        "topk": None,
        "topk_recon_coeff": None,
        "lp_sparsity_coeff": 2.0,
        "pnorm": 0.9,
        "schatten_coeff": None,
        "param_match_coeff": 1.0,
        "C": 2,
    }
    method = APD(target, APDConfig.from_mapping({**BASE, **settings}))
    losses = method.compute(x, 0)
    w, w_t = target.linear1.weight, target.linear1.weight.transpose(1, 2)
    gate = ((x @ w @ w_t + target.b_final.unsqueeze(1)) > 0).double()
    a, b = (p.detach().clone().requires_grad_() for p in method.parameters.values())
    parts = a.transpose(-1, -2) @ b
    effects = [gate * (x @ parts[:, c] @ w_t + x @ w @ parts[:, c].transpose(1, 2)) for c in range(2)]
    lp = torch.stack([((e.square().sum(-1) / 7 + 1e-16) ** 0.45).mean(-1) for e in effects]).sum(0)
    match = 2 * (parts.sum(1) - w).square().sum(dim=(1, 2)) / 42
    (2.0 * lp + match).sum().backward()
    torch.testing.assert_close(losses["lp_sparsity"], lp.detach())
    for copy, parameter in zip((a, b), method.parameters.values(), strict=True):
        torch.testing.assert_close(parameter.grad, copy.grad)


def test_unit_norm_keeps_columns_at_length_one_and_removes_radial_gradients() -> None:
    target = _tms(torch.float64)
    method = APD(target, APDConfig.from_mapping({**BASE, "unit_norm_matrices": True}))
    method.before_step()
    a, _ = method.component_factors()["linear1"]
    torch.testing.assert_close(a.norm(dim=-2), torch.ones_like(a[..., 0, :]))
    method.compute(_x(3, 7, 0.2, torch.float64), 0)
    method.after_backward()
    grad = method.parameters["linear1.A_T"].grad
    assert grad is not None and grad.abs().max() > 0
    torch.testing.assert_close(
        (grad * method.parameters["linear1.A_T"]).sum(-1), torch.zeros_like(grad[..., 0])
    )


def test_the_default_rank_follows_the_original() -> None:
    tms = APD(_tms(torch.float32), APDConfig.from_mapping(BASE))
    assert tms.parameters["linear1.A_T"].shape == (3, 6, 4, 7)
    config = ResidMLPModelConfig(n_features=9, d_embed=11, d_mlp=5)
    resid = APD(ResidMLP(config).reset(0), APDConfig.from_mapping(BASE))
    assert resid.parameters["layers.0.mlp_in.A_T"].shape == (1, 6, 5, 11)
    a, b = resid.component_factors()["layers.0.mlp_in"]
    assert a.shape == (1, 6, 11, 5) and b.shape == (1, 6, 5, 5)


def test_the_tied_site_shares_its_partners_factors() -> None:
    method = APD(_tms(torch.float64), APDConfig.from_mapping(BASE))
    assert list(method.parameters) == ["linear1.A_T", "linear1.B"]
    factors = method.component_factors()
    first, last = (factors[name][0] @ factors[name][1] for name in ("linear1", "linear2"))
    torch.testing.assert_close(last, first.transpose(-1, -2))
