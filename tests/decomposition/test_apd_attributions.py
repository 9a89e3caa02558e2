"""APD's attributions and masks: against interventions, loops, and counting."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from microtome.decomposition.apd import APD
from microtome.decomposition.apd_config import APDConfig
from microtome.decomposition.apd_plain import decomposed_pass
from microtome.decomposition.attribution.topk import exact_counts, largest, topk_mask
from microtome.decomposition.kernels import apd as kernels
from microtome.targets.config import MLPModelConfig, TMSModelConfig
from microtome.targets.mlp import MLP
from microtome.targets.network import Target
from microtome.targets.tms import TMS

K, B, C = 2, 6, 4


def _tms() -> TMS:
    target = TMS(TMSModelConfig(n_features=5, n_hidden=3, n_hidden_layers=1, n_instances=K)).reset(1).double()
    with torch.no_grad():
        target.b_final.copy_(torch.randn(K, 5, generator=torch.Generator().manual_seed(7)) * 0.1)
    return target


def _method(target: Target, **settings: object) -> APD:
    base = {
        "batch_size": B,
        "steps": 1,
        "print_freq": 1,
        "lr": 0.1,
        "C": C,
        "topk": 1.0,
        "topk_recon_coeff": 1.0,
    }
    method = APD(target, APDConfig.from_mapping({**base, **settings}), plain=True)
    with torch.no_grad():
        for i, parameter in enumerate(method.parameters.values()):
            draw = torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(i), dtype=torch.float64
            )
            parameter.copy_(draw * 0.5)
    return method


def _x(n: int = 5) -> Tensor:
    return torch.rand(K, B, n, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@pytest.mark.parametrize("model", ["target", "decomposed"])
def test_gradient_attributions_are_the_squared_first_order_effects(model: str) -> None:
    """A little more of component c at every site moves output o by what the attribution squares."""
    target = _tms()
    method = _method(target, attribution_model=model)
    factors, x, eps = method.component_factors(), _x(), 1e-6
    got = method.attributions(x)
    sites = target.sites()

    def base(name: str, value: Tensor) -> Tensor:
        a, b = factors[name]
        return value @ ((a @ b).sum(1) if model == "decomposed" else sites[name].weight)

    inputs: dict[str, Tensor] = {}

    def unmoved(name: str, value: Tensor) -> Tensor:
        inputs[name] = value
        return base(name, value)

    target(x, unmoved)
    for c in range(C):

        def moved(name: str, value: Tensor, sign: float, c: int = c) -> Tensor:
            part = factors[name][0][:, c] @ factors[name][1][:, c]
            return base(name, value) + sign * eps * inputs[name] @ part

        up = target(x, lambda n, v: moved(n, v, 1.0))
        down = target(x, lambda n, v: moved(n, v, -1.0))
        effect = (up - down) / (2 * eps)
        torch.testing.assert_close(got[..., c], effect.square().sum(-1), rtol=1e-5, atol=1e-8)


def test_attributions_can_be_asked_for_where_gradients_are_off() -> None:
    method = _method(_tms())
    with torch.no_grad():
        quiet = method.attributions(_x())
    torch.testing.assert_close(quiet, method.attributions(_x()))


def test_ablation_attributions_are_the_errors_of_networks_without_the_component() -> None:
    target = _tms()
    method = _method(target, attribution_type="ablation")
    x, factors = _x(), method.component_factors()
    whole = decomposed_pass(target, factors, x).output
    got = method.attributions(x)
    for c in range(C):
        kept = [i for i in range(C) if i != c]
        rest = {name: (a[:, kept], b[:, kept]) for name, (a, b) in factors.items()}
        without = decomposed_pass(target, rest, x).output
        torch.testing.assert_close(got[..., c], (whole - without).square().mean(-1))


def test_activation_attributions_are_the_squared_lengths_of_what_a_component_writes() -> None:
    target = MLP(MLPModelConfig(sizes=(4, 3, 2), n_instances=K)).reset(0).double()
    method = _method(target, attribution_type="activation")
    x, factors, sites = _x(4), method.component_factors(), target.sites()
    got = method.attributions(x)
    expected = torch.zeros(K, B, C, dtype=torch.float64)
    for k in range(K):
        for b in range(B):
            value = x[k, b]
            for i, (name, (left, right)) in enumerate(factors.items()):
                if i:
                    value = torch.relu(value)
                total = torch.zeros_like(sites[name].weight[k, 0])
                for c in range(C):
                    written = value @ left[k, c] @ right[k, c]
                    expected[k, b, c] += written.square().sum()
                    total = total + written
                bias = sites[name].bias
                value = total if bias is None else total + bias[k]
    torch.testing.assert_close(got, expected)


scores_with_ties = st.lists(st.sampled_from([0.0, 0.0, 0.5, 1.0, 1.5, 2.0]), min_size=12, max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.lists(scores_with_ties, min_size=2, max_size=2), st.floats(0.1, 3.0))
def test_batch_topk_marks_the_truncated_number_in_each_instance(
    values: list[list[float]], topk: float
) -> None:
    scores = torch.tensor(values).view(2, 4, 3)
    mask = topk_mask(scores, topk)
    assert mask.sum(dim=(1, 2)).tolist() == [int(topk * 4)] * 2
    for k in range(2):
        if mask[k].any() and not mask[k].all():
            assert scores[k][mask[k]].min() >= scores[k][~mask[k]].max()


@settings(max_examples=60, deadline=None)
@given(scores_with_ties, st.integers(1, 3))
def test_topk_per_sample_marks_as_many_in_every_row(values: list[float], topk: int) -> None:
    mask = topk_mask(torch.tensor(values).view(1, 4, 3), float(topk), batch_topk=False)
    assert (mask.sum(-1) == topk).all()


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from([0.0, 1e-30, 0.5, 1.0, 1.0000001, 7.0]), min_size=1, max_size=40), st.data())
def test_of_equal_scores_the_first_ones_are_marked(values: list[float], data: st.DataObject) -> None:
    count = data.draw(st.integers(0, len(values) + 2))
    for dtype in (torch.float32, torch.float64):
        scores = torch.tensor([values], dtype=dtype)
        row = scores[0].tolist()
        ranked = sorted(range(len(row)), key=lambda i: (-row[i], i))[:count]
        expected = [i in ranked for i in range(len(row))]
        assert largest(scores, [count])[0].tolist() == expected
        if kernels.available(scores):
            assert kernels.select_largest(scores, [count])[0].tolist() == expected


def test_the_distilled_component_is_always_on_and_never_ranked() -> None:
    scores = torch.tensor([[[1.0, 2.0, 9.0], [3.0, 0.5, 9.0]]])
    mask = topk_mask(scores, 1.0, distil=True)
    assert mask.tolist() == [[[False, True, True], [True, False, True]]]


def test_exact_topk_counts_the_active_inputs_of_each_instance() -> None:
    x = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[1.0, 2.0], [3.0, 0.0]]])
    assert exact_counts(x) == [1, 3]
    mask = topk_mask(torch.rand(2, 2, 3), 1.0, counts=exact_counts(x))
    assert mask.sum(dim=(1, 2)).tolist() == [1, 3]
