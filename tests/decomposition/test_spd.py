"""The fast step of SPD against the equations written out: same losses, same gradients."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from microtome.data.sparse_features import SparseFeatures
from microtome.decomposition import full_spd
from microtome.decomposition.causal_importance.sigmoids import sigmoid_pair
from microtome.decomposition.compaction import compact, zero_stays_zero
from microtome.decomposition.full_spd import FullSPD
from microtome.decomposition.gates import gate_values
from microtome.decomposition.masks import Draws
from microtome.decomposition.spd import SPD
from microtome.decomposition.spd_config import SPDConfig
from microtome.decomposition.spd_plain import plain_spd_losses
from microtome.targets.config import MLPModelConfig, ResidMLPModelConfig, TMSModelConfig
from microtome.targets.mlp import MLP
from microtome.targets.module_target import ModuleTarget
from microtome.targets.network import Target
from microtome.targets.resid_mlp import ResidMLP
from microtome.targets.tms import TMS

ALL_LOSSES = {
    "faithfulness_coeff": 1.0,
    "stochastic_recon_coeff": 1.3,
    "stochastic_recon_layerwise_coeff": 0.7,
    "recon_coeff": 0.4,
    "recon_layerwise_coeff": 0.3,
    "out_recon_coeff": 0.2,
    "importance_minimality_coeff": 0.05,
}


class SparseDraw:
    """Numbers that depend on the loss and the row's content, so that left-out rows do not shift the rest."""

    def __init__(self, x: Tensor, seed: int) -> None:
        self.x, self.seed, self.calls = x, seed, 0
        self.used = x.flatten(2).any(-1)

    def full(self, like: Tensor, n_rows: int) -> Tensor:
        self.calls += 1
        g = torch.Generator().manual_seed(self.seed + self.calls)
        return torch.rand(like.shape[0], n_rows, like.shape[-1], generator=g, dtype=torch.float64)

    def plain(self, ci: Tensor) -> Tensor:
        return self.full(ci, ci.shape[1]).to(ci.dtype)

    def fast(self, ci: Tensor) -> Tensor:
        """The numbers of the kept rows, [K, C, N]; rows beyond them are zero whatever their masks."""
        everything = self.full(ci.transpose(1, 2), self.x.shape[1])
        if ci.shape[-1] == self.x.shape[1]:
            return everything.transpose(1, 2).to(ci.dtype)
        out = torch.zeros(ci.shape, dtype=ci.dtype)
        for k, used in enumerate(self.used):
            out[k, :, : int(used.sum())] = everything[k, used].T.to(ci.dtype)
        return out


def tms(dtype: torch.dtype, hidden_layers: int = 0) -> tuple[Target, Tensor]:
    config = TMSModelConfig(n_features=6, n_hidden=3, n_instances=2, n_hidden_layers=hidden_layers)
    target = TMS(config).reset(1).to(dtype)
    x = SparseFeatures(2, 6, 0.1).batch(64, torch.Generator().manual_seed(0))
    return target, x.to(dtype)


def resid_mlp(dtype: torch.dtype, **settings: object) -> tuple[Target, Tensor]:
    config = ResidMLPModelConfig(
        n_features=7, d_embed=12, d_mlp=5, n_instances=2, **{"n_layers": 2, **settings}
    )
    target = ResidMLP(config, fixed_embedding=True, shared_embedding=True).reset(1, embedding="random")
    draws = torch.Generator().manual_seed(4)
    for name, parameter in target.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, generator=draws)
    x = SparseFeatures(2, 7, 0.1, value_range=(-1.0, 1.0)).batch(64, torch.Generator().manual_seed(0))
    return target.to(dtype), x.to(dtype)


def mlp(dtype: torch.dtype) -> tuple[Target, Tensor]:
    target = MLP(MLPModelConfig(sizes=(6, 5, 4), n_instances=2)).reset(1)
    return target.to(dtype), torch.randn(2, 32, 6, generator=torch.Generator().manual_seed(0)).to(dtype)


def module(dtype: torch.dtype) -> tuple[Target, Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4, bias=False))
    target = ModuleTarget(net.to(dtype), ["*"]).select([0, 0])
    return target, torch.randn(2, 32, 6, generator=torch.Generator().manual_seed(0)).to(dtype)


class DefinedBackwards(nn.Module):
    """Layers that run in another order than they are defined in."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(5, 4)
        self.first = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x)))


def backwards(dtype: torch.dtype) -> tuple[Target, Tensor]:
    torch.manual_seed(0)
    target = ModuleTarget(DefinedBackwards().to(dtype), ["*"]).select([0, 0])
    return target, torch.randn(2, 32, 6, generator=torch.Generator().manual_seed(0)).to(dtype)


CASES = {
    "module defined backwards": backwards,
    "tms": tms,
    "tms with hidden layer": lambda dtype: tms(dtype, 1),
    "residual mlp": resid_mlp,
    "residual mlp with biases": lambda dtype: resid_mlp(dtype, in_bias=True, out_bias=True),
    "residual mlp, gelu and output activation": lambda dtype: resid_mlp(
        dtype, act_fn_name="gelu", apply_output_act_fn=True
    ),
    "mlp": mlp,
    "any module": module,
}


def gradients(losses: dict[str, Tensor], parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    leaves = list(parameters.values())
    # Linear gates have no hidden weights: those tensors are empty and unused.
    grads = torch.autograd.grad(losses["total"].sum(), leaves, allow_unused=True, materialize_grads=True)
    return dict(zip(parameters, grads, strict=True))


LATER_LOSSES = (
    {"name": "importance_minimality", "coeff": 0.05, "pnorm": 2.0, "p_anneal_start_frac": 0.2,
     "p_anneal_final_p": 0.7, "eps": 1e-3, "beta": 0.4},
    {"name": "stochastic_recon", "coeff": 1.3},
    {"name": "stochastic_recon", "coeff": 0.7, "sites": "layerwise"},
    {"name": "ci_masked_recon", "coeff": 0.4},
    {"name": "unmasked_recon", "coeff": None},
)  # fmt: skip
LATER = {"sigmoid_type": "leaky_hard", "use_delta_component": True, "losses": LATER_LOSSES}
SETTINGS = {
    "paper": {"n_ci_mlp_neurons": 4, "pnorm": 2.0, **ALL_LOSSES},
    "paper, linear gates, two samples": {"n_ci_mlp_neurons": 0, "n_mask_samples": 2, **ALL_LOSSES},
    "paper, kl, p below 1": {
        "n_ci_mlp_neurons": 3, "pnorm": 0.9, "output_loss_type": "kl", **ALL_LOSSES
    },
    "later": {"ci_fn_type": "mlp", "ci_fn_hidden_dims": (3,), **LATER},
    "later, vector mlp": {"ci_fn_type": "vector_mlp", "ci_fn_hidden_dims": (3,), **LATER},
    "later, shared mlp": {"ci_fn_type": "shared_mlp", "ci_fn_hidden_dims": (6, 5), **LATER},
    "later, binomial": {
        "ci_fn_type": "shared_mlp", "ci_fn_hidden_dims": (), **LATER, "sampling": "binomial"
    },
}  # fmt: skip


def off_zero(method: SPD, dtype: torch.dtype) -> None:
    """Parameters in ``dtype``, their biases away from the kinks of the sigmoids."""
    for name, tensor in method.parameters.items():
        moved = tensor.detach().to(dtype)
        if name.endswith(("b_in", "b_out", ".b")):
            moved = moved + 0.3 * torch.randn(moved.shape, generator=torch.Generator().manual_seed(5))
        tensor.data = moved.to(dtype)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-6)])
def test_fast_step_equals_the_equations(case, settings, dtype, tolerance):
    target, x = CASES[case](dtype)
    target.requires_grad_(False)
    config = SPDConfig(C=4, **SETTINGS[settings])
    assert SPD.can(config, target)
    fast = SPD(target, config, [0, 1])
    off_zero(fast, dtype)
    fast.draw = SparseDraw(x, 7).fast
    ours = fast.losses(x, 0.6)
    plain = plain_spd_losses(target, fast.factors(), fast.functions, config, x, SparseDraw(x, 7).plain, 0.6)
    assert set(ours) == set(plain)
    for name, value in plain.items():
        # KL is a small difference of larger numbers: its rounding is absolute.
        torch.testing.assert_close(ours[name], value, rtol=tolerance, atol=tolerance * 0.1)
    ours_grad = gradients(ours, fast.parameters)
    # The reference in double precision whatever ours is in: that is what the tolerance is about.
    for name, grad in gradients(plain, fast.parameters).items():
        error = (ours_grad[name] - grad).norm() / grad.norm().clamp(min=1e-12)
        assert float(error) < (tolerance if dtype == torch.float64 else 5e-6), name


class CountedDraws(Draws):
    """``Draws`` whose n-th key to be used stands for the n-th numbers of a ``SparseDraw``."""

    def __init__(self, source: SparseDraw) -> None:
        super().__init__(0)
        self.source, self.used = source, dict[int, int]()

    def uniform(self, key: int, shape: Sequence[int], rows: slice, like: Tensor) -> Tensor:
        self.source.calls = self.used.setdefault(key, len(self.used))
        width = shape[2] if len(shape) > 2 else 1
        numbers = self.source.full(torch.empty(shape[0], 0, width), shape[1])
        return numbers.reshape(tuple(shape)).to(like.dtype)


@pytest.mark.parametrize("case", ["tms with hidden layer", "residual mlp with biases", "any module"])
@pytest.mark.parametrize("settings", SETTINGS)
def test_fast_step_equals_the_step_that_takes_everything(monkeypatch, case, settings):
    target, x = CASES[case](torch.float64)
    target.requires_grad_(False)
    config = SPDConfig(C=4, steps=10, **{**SETTINGS[settings], "n_mask_samples": 2})
    fast, full = SPD(target, config, [0, 1]), FullSPD(target, config, [0, 1])
    assert set(fast.parameters) == set(full.parameters)
    off_zero(fast, torch.float64)
    for name, tensor in full.parameters.items():
        tensor.data = fast.parameters[name].detach().clone()
    fast.draw = SparseDraw(x, 7).fast
    monkeypatch.setattr(full_spd, "Draws", lambda _: CountedDraws(SparseDraw(x, 7)))
    ours, theirs = fast.compute(x, 6), full.compute(x, 6)
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value.double(), rtol=1e-9, atol=1e-12)
    for name, parameter in full.parameters.items():
        mine, other = fast.parameters[name].grad, parameter.grad
        if parameter.numel():
            assert mine is not None
            assert other is not None
            assert float((mine - other).norm()) <= 1e-9 * float(other.norm()), name


@pytest.mark.parametrize(
    "setting",
    [
        {"ci_fn_mode": "global", "ci_fn_type": "shared_mlp"},
        {"ci_fn_hidden_dims": (4, 4)},
        {"sigmoid_type": "normal"},
        {"gradient_accumulation_steps": 2},
        {"autocast_bf16": True},
        {"losses": ({"name": "faithfulness", "relative": True, "coeff": 1.0},)},
        {"losses": ({"name": "stochastic_recon", "sites": "subset", "coeff": 1.0},)},
        {"losses": ({"name": "pgd_recon", "coeff": 1.0},)},
    ],
)
def test_what_the_fast_step_does_not_compute_it_leaves_to_the_other(setting):
    target, _ = tms(torch.float32)
    assert SPD.can(SPDConfig(C=4), target)
    assert not SPD.can(SPDConfig(C=4, **setting), target)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("hidden", [0, 1, 16])
def test_gates_equal_the_plain_formulation(dtype, tolerance, hidden):
    from microtome.decomposition.fused_gates import fused_gates
    from microtome.decomposition.gates import GateWeights, init_gates

    g = torch.Generator().manual_seed(0)
    gates = init_gates(2, 3, hidden, [g, g])
    gates = GateWeights(gates.w_in, gates.b_in + 0.1, gates.w_out, gates.b_out + 0.05)
    inner = 3 * torch.randn(2, 3, 700, generator=g)
    upstream = torch.randn(2, 3, 700, generator=g)

    def run(function: Callable[[Tensor, GateWeights], Tensor], kind: torch.dtype) -> list[Tensor]:
        leaves = [
            t.to(kind).requires_grad_() for t in (inner, gates.w_in, gates.b_in, gates.w_out, gates.b_out)
        ]
        value = function(leaves[0], GateWeights(*leaves[1:]))
        total = (value * upstream.to(kind)).sum()
        grads = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
        return [value.detach(), *grads]

    for mine, plain in zip(run(fused_gates, dtype), run(gate_values, torch.float64), strict=True):
        assert float((mine.double() - plain).norm()) <= tolerance * max(float(plain.norm()), 1e-9)


@pytest.mark.parametrize("at_a_time", [1, 10_000_000])
def test_vector_gates_equal_the_plain_formulation(monkeypatch, at_a_time):
    from microtome.decomposition import fused_vector_gates as fused
    from microtome.decomposition.causal_importance.vector_mlp import vector_mlp

    g = torch.Generator().manual_seed(0)
    shapes = ((2, 7, 300), (2, 3, 7, 4), (2, 3, 4), (2, 3, 4), (2, 3))
    given = [torch.randn(shape, generator=g) for shape in shapes]
    upstream = torch.randn(2, 3, 300, generator=g)
    if not fused.can_fuse(given[0]):
        pytest.skip("no compiler")
    monkeypatch.setattr(fused, "_CHUNK_ELEMENTS", at_a_time)

    def plain(x: Tensor, w_in: Tensor, b_in: Tensor, w_out: Tensor, b_out: Tensor) -> Tensor:
        return vector_mlp(x.mT, [(w_in, b_in), (w_out.unsqueeze(-1), b_out.unsqueeze(-1))]).mT

    def run(function: Callable[..., Tensor], kind: torch.dtype) -> list[Tensor]:
        leaves = [t.to(kind).requires_grad_() for t in given]
        value = function(*leaves)
        return [value.detach(), *torch.autograd.grad((value * upstream.to(kind)).sum(), leaves)]

    for mine, exact in zip(
        run(fused.fused_vector_gates, torch.float32), run(plain, torch.float64), strict=True
    ):
        assert float((mine.double() - exact).norm()) <= 2e-6 * float(exact.norm())


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("sigmoid", ["paper", "leaky_hard"])
@pytest.mark.parametrize("jittered", [False, True])
@pytest.mark.parametrize(("p", "eps"), [(1.0, 1e-12), (1.0, 0.01), (2.0, 0.01), (1.5, 1e-12), (0.7, 1e-12)])
def test_importances_equal_the_plain_formulation(monkeypatch, compiled, sigmoid, jittered, p, eps):
    from microtome.decomposition.fused_importance import fused_importance

    if not compiled:
        monkeypatch.setattr("microtome.decomposition.kernels.single_precision.load_library", lambda _: None)
    g = torch.Generator().manual_seed(0)
    gate = 1.5 * torch.randn(2, 3, 1500, generator=g) + 0.3
    upstream, weight = torch.randn(2, 3, 1500, generator=g), torch.rand(2, 1500, generator=g)
    jitter, d_sums = torch.rand(2, 3, 1500, generator=g), torch.randn(2, 3, generator=g)
    leaf = gate.clone().requires_grad_()
    lower, sums = fused_importance(leaf, weight, p, eps, sigmoid, jitter if jittered else None)
    ours = torch.autograd.grad((lower * upstream).sum() + (sums * d_sums).sum(), leaf)[0]

    exact = gate.double().requires_grad_()
    read = 1.05 * exact - 0.05 * jitter if jittered else exact
    for_masks, for_loss = sigmoid_pair(sigmoid)
    plain_sums = ((for_loss(exact) + eps).pow(p) * weight.unsqueeze(1)).sum(-1)
    plain_lower = for_masks(read)
    plain = torch.autograd.grad((plain_lower * upstream).sum() + (plain_sums * d_sums).sum(), exact)[0]
    torch.testing.assert_close(lower.double(), plain_lower, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(sums.double(), plain_sums, rtol=2e-6, atol=0)
    torch.testing.assert_close(ours.double(), plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("binary", [True, False])
def test_masks_of_a_delta_component_equal_the_equation(monkeypatch, compiled, binary):
    from microtome.decomposition import fused

    if not compiled:
        monkeypatch.setattr("microtome.decomposition.kernels.single_precision.load_library", lambda _: None)
    g = torch.Generator().manual_seed(0)
    inner, ci, source, upstream = (torch.rand(2, 3, 40, generator=g) for _ in range(4))
    delta = torch.rand(2, 40, generator=g)
    leaves = [inner.clone().requires_grad_(), ci.clone().requires_grad_()]
    ours = fused.masked_inner(leaves[0], leaves[1], source, delta, binary)
    u = (source < 0.5).float() if binary else source
    plain = leaves[0] * (leaves[1] + (1 - leaves[1]) * u - delta.unsqueeze(1))
    torch.testing.assert_close(ours, plain)
    grads = (torch.autograd.grad((out * upstream).sum(), leaves) for out in (ours, plain))
    for mine, expected in zip(*grads, strict=True):
        torch.testing.assert_close(mine, expected)


@pytest.mark.parametrize("compiled", [True, False])
def test_compaction_keeps_what_matters(monkeypatch, compiled):
    if not compiled:
        monkeypatch.setattr("microtome.decomposition.kernels.single_precision.load_library", lambda _: None)
    x = torch.zeros(2, 5, 3)
    x[0, 1, 2] = 0.5
    x[0, 4, 0] = 0.25
    x[1, 3, 1] = 1.0
    rows = compact(x)
    assert rows.x.shape == (2, 3, 3)
    assert rows.weight.tolist() == [[1.0, 1.0, 3.0], [1.0, 4.0, 0.0]]
    assert rows.x[0, 0].tolist() == [0.0, 0.0, 0.5]
    assert rows.x[0, 1].tolist() == [0.25, 0.0, 0.0]
    assert rows.n == 5


def test_compaction_is_refused_where_a_bias_reaches_a_site():
    assert zero_stays_zero(tms(torch.float32)[0], 6)
    assert zero_stays_zero(resid_mlp(torch.float32)[0], 7)
    assert not zero_stays_zero(resid_mlp(torch.float32, in_bias=True, out_bias=True)[0], 7)


def test_without_a_compiler_the_numbers_are_the_same(monkeypatch):
    target, x = tms(torch.float32)
    config = SPDConfig(C=4, n_ci_mlp_neurons=8)
    results = []
    for without in (False, True):
        if without:
            monkeypatch.setattr(
                "microtome.decomposition.kernels.single_precision.load_library", lambda _: None
            )
        numbers = torch.Generator().manual_seed(3)
        method = SPD(target, config, [0, 1], draw=lambda like: torch.rand(like.shape, generator=numbers))  # noqa: B023
        losses = method.compute(x, 0)
        results.append((losses["total"], {n: t.grad for n, t in method.parameters.items()}))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-6, atol=1e-8)
    for name, grad in results[0][1].items():
        torch.testing.assert_close(grad, results[1][1][name], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("compiled", [True, False])
def test_numbers_of_a_key_are_uniform_and_fresh(monkeypatch, compiled):
    from scipy import stats

    from microtome.decomposition import fused

    if not compiled:
        monkeypatch.setattr("microtome.decomposition.kernels.single_precision.load_library", lambda _: None)
    like = torch.empty(4, 50, 500)
    first, again, other = (fused.source_numbers(like, key) for key in (12345, 12345, 12346))
    assert torch.equal(first, again)
    assert float(first.min()) >= 0.0
    assert float(first.max()) < 1.0
    assert stats.kstest(first.flatten().numpy(), "uniform").pvalue > 1e-4
    pairs = [(first, other), (first[..., 1:], first[..., :-1]), (first[:, 1:], first[:, :-1])]
    for a, b in pairs:
        assert abs(float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])) < 0.02


def test_a_key_means_the_same_mask_forward_and_backward():
    from microtome.decomposition import fused

    g = torch.Generator().manual_seed(0)
    inner, ci = (torch.rand(2, 3, 40, generator=g).requires_grad_() for _ in range(2))
    numbers = fused.source_numbers(inner, 99)
    grads = []
    for source in (99, numbers):
        out = fused.masked_inner(inner, ci, source)
        grads.append([out.detach(), *torch.autograd.grad((out * numbers).sum(), [inner, ci])])
    for ours, given in zip(*grads, strict=True):
        torch.testing.assert_close(ours, given)


def test_p_moves_linearly_between_its_two_values():
    config = SPDConfig(
        steps=100, pnorm=2.0, p_anneal_final_p=1.0, p_anneal_start_frac=0.2, p_anneal_end_frac=0.6
    )
    assert [config.p_at(step) for step in (0, 19, 20, 40, 60, 99)] == [2.0, 2.0, 2.0, 1.5, 1.0, 1.0]
    assert SPDConfig(pnorm=1.5).p_at(10_000) == 1.5
    target, x = tms(torch.float64)
    parts = {"C": 4, "n_ci_mlp_neurons": 2, "steps": 100}
    moving = SPD(target, SPDConfig(**parts, pnorm=2.0, p_anneal_final_p=1.0, p_anneal_start_frac=0.0), [0, 1])
    fixed = SPD(target, SPDConfig(**parts, pnorm=1.5), [0, 1])
    for method in (moving, fixed):
        for tensor in method.parameters.values():
            tensor.data = tensor.data.double()
    ours, theirs = moving.compute(x, 50), fixed.compute(x, 0)
    torch.testing.assert_close(ours["importance_minimality"], theirs["importance_minimality"])
