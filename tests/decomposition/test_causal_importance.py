"""Causal importance functions and sigmoids against loops in double precision."""

import numpy as np
import pytest
import torch
from scipy.special import erf
from torch import Tensor

from microtome.core.errors import MicrotomeError
from microtome.decomposition.causal_importance import chunks
from microtome.decomposition.causal_importance.functions import CausalImportanceFunction
from microtome.decomposition.causal_importance.linear import linear
from microtome.decomposition.causal_importance.mlp import scalar_mlp
from microtome.decomposition.causal_importance.shared_mlp import shared_mlp
from microtome.decomposition.causal_importance.sigmoids import sigmoid_pair
from microtome.decomposition.causal_importance.vector_mlp import vector_mlp
from microtome.decomposition.gates import GateWeights, gate_values, init_gates

K, C, N, D = 2, 3, 5, 4
Layers = list[tuple[Tensor, Tensor]]


def layers(sizes: list[int], each: tuple[int, ...]) -> Layers:
    pairs = zip(sizes[:-1], sizes[1:], strict=True)  # noqa: RUF007
    return [(torch.randn(*each, i, o).double(), torch.randn(*each, o).double()) for i, o in pairs]


def by_hand(x: np.ndarray, network: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    for i, (weight, bias) in enumerate(network):
        if i:
            x = x * 0.5 * (1 + erf(x / np.sqrt(2)))
        x = x @ weight + bias
    return x


def one(network: Layers, *index: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(weight[index].numpy(), bias[index].numpy()) for weight, bias in network]


@pytest.fixture(params=[1 << 20, 7], ids=["whole", "in parts"])
def budget(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Large enough for one go, and so small that every row is a part."""
    monkeypatch.setitem(chunks.WITHOUT_GRADIENTS, "cpu", request.param)
    monkeypatch.setitem(chunks.WITH_GRADIENTS, "cpu", request.param)
    return request.param


@pytest.mark.parametrize("hidden", [[2], [3, 2]])
def test_a_network_for_each_component(budget: int, hidden: list[int]) -> None:
    network, inner = layers([1, *hidden, 1], (K, C)), torch.randn(K, C, N).double()
    vectors, x = layers([D, *hidden, 1], (K, C)), torch.randn(K, N, D).double()
    with torch.no_grad():
        scalar, vector = scalar_mlp(inner, network), vector_mlp(x, vectors)
    for k, c, n in np.ndindex(K, C, N):
        expected = by_hand(inner[k, c, n].numpy().reshape(1), one(network, k, c))
        np.testing.assert_allclose(scalar[k, c, n], expected[0], rtol=1e-12)
        np.testing.assert_allclose(
            vector[k, n, c], by_hand(x[k, n].numpy(), one(vectors, k, c))[0], rtol=1e-12
        )


@pytest.mark.parametrize("hidden", [[], [6], [5, 3]])
def test_one_network_for_all(budget: int, hidden: list[int]) -> None:
    network, x = layers([D, *hidden, C], (K,)), torch.randn(K, N, D).double()
    found = shared_mlp(x, network)
    for k, n in np.ndindex(K, N):
        np.testing.assert_allclose(found[k, n], by_hand(x[k, n].numpy(), one(network, k)), rtol=1e-12)


def test_linear() -> None:
    inner, w, b = torch.randn(K, C, N), torch.randn(K, C), torch.randn(K, C)
    for k, c, n in np.ndindex(K, C, N):
        assert linear(inner, w, b)[k, c, n] == inner[k, c, n] * w[k, c] + b[k, c]


def test_the_trainers_gates_are_the_scalar_networks(budget: int) -> None:
    gates = init_gates(K, C, 4, [torch.Generator().manual_seed(s) for s in range(K)])
    gates = GateWeights(gates.w_in, gates.b_in + 0.1, gates.w_out, gates.b_out + 0.05)
    network = [(gates.w_in.unsqueeze(2), gates.b_in), (gates.w_out.unsqueeze(-1), gates.b_out.unsqueeze(-1))]
    inner = torch.randn(K, C, N)
    torch.testing.assert_close(gate_values(inner, gates), scalar_mlp(inner, network))


def test_gradients_do_not_depend_on_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    network, vectors, together = layers([1, 3, 1], (K, C)), layers([D, 3, 1], (K, C)), layers([D, 6, C], (K,))
    inner, x = torch.randn(K, C, N).double().requires_grad_(), torch.randn(K, N, D).double().requires_grad_()
    leaves = [
        inner,
        x,
        *(t.requires_grad_() for net in (network, vectors, together) for pair in net for t in pair),
    ]

    def gradients() -> tuple[Tensor, ...]:
        total = scalar_mlp(inner, network).sin().sum() + vector_mlp(x, vectors).sin().sum()
        return torch.autograd.grad(total + shared_mlp(x, together).sin().sum(), leaves)

    whole = gradients()
    monkeypatch.setitem(chunks.WITH_GRADIENTS, "cpu", 7)
    for one_go, parts in zip(whole, gradients(), strict=True):
        torch.testing.assert_close(parts, one_go)


@pytest.mark.parametrize("kind", ["mlp", "vector_mlp", "shared_mlp", "gates"])
def test_no_hidden_layer_of_all_rows_exists(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0
    gelu = torch.nn.functional.gelu

    def watched(x: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, x.numel())
        return gelu(x)

    monkeypatch.setattr(torch.nn.functional, "gelu", watched)
    # The compiled kernels never make it; without them it is made in parts.
    monkeypatch.setattr("microtome.decomposition.kernels.single_precision.load_library", lambda _: None)
    rows, c, h = 60_000, 20, 16
    with torch.no_grad():
        if kind == "shared_mlp":
            made = CausalImportanceFunction("shared_mlp", numbered(kind, [(2, 320), (320, c)], ()))
        elif kind == "gates":
            gates = init_gates(1, c, h, [torch.Generator()])
            weights = {n: getattr(gates, n) for n in ("w_in", "b_in", "w_out", "b_out")}
            made = CausalImportanceFunction("mlp", weights)
        else:
            first = 1 if kind == "mlp" else 2
            made = CausalImportanceFunction(kind, numbered(kind, [(first, h), (h, 1)], (c,)))  # pyright: ignore
        found = made(torch.rand(1, rows, c if made.reads == "component_acts" else 2))
    assert found.shape == (1, rows, c)
    assert 0 < largest <= 1 << 20 < rows * c * h


def numbered(kind: str, shapes: list[tuple[int, int]], each: tuple[int, ...]) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for i, (a, b) in enumerate(shapes):
        out[f"{kind}.{i}.W"], out[f"{kind}.{i}.b"] = torch.randn(1, *each, a, b), torch.randn(1, *each, b)
    return out


def test_sigmoids_at_their_corners() -> None:
    g = torch.tensor([-2.0, -0.5, 0.0, 0.25, 1.0, 1.5, 3.0])
    expected = {
        "paper": ([-0.02, -0.005, 0, 0.25, 1, 1, 1], [0, 0, 0, 0.25, 1, 1.005, 1.02]),
        "leaky_hard": ([0, 0, 0, 0.25, 1, 1, 1], [0, 0, 0, 0.25, 1, 1.005, 1.02]),
        "hard": ([0, 0, 0, 0.25, 1, 1, 1], [0, 0, 0, 0.25, 1, 1, 1]),
        "upper_leaky_hard": ([0, 0, 0, 0.25, 1, 1.005, 1.02], [0, 0, 0, 0.25, 1, 1.005, 1.02]),
    }
    for name, wanted in expected.items():
        for sigmoid, values in zip(sigmoid_pair(name), wanted, strict=True):
            torch.testing.assert_close(sigmoid(g), torch.tensor(values), msg=name)
    rounded = sigmoid_pair("swish_hard")[0](torch.tensor([-9.0, 0.0, 0.5, 1.0, 9.0]))
    torch.testing.assert_close(rounded, torch.tensor([0.0, 4.5e-5, 0.5, 1 - 4.5e-5, 1.0]), atol=1e-6, rtol=0)
    with pytest.raises(MicrotomeError, match=r"sigmoid_type='soft'.*paper, leaky_hard"):
        sigmoid_pair("soft")


def test_the_later_leaky_gradient_only_raises() -> None:
    g = torch.tensor([-1.0, -1.0, 0.5, 0.5, 2.0, 2.0], requires_grad=True)
    upstream = torch.tensor([3.0, -3.0, 3.0, -3.0, 3.0, -3.0])
    (found,) = torch.autograd.grad(sigmoid_pair("leaky_hard")[0](g), g, upstream)
    torch.testing.assert_close(found, torch.tensor([0.0, -0.03, 3.0, -3.0, 0.0, 0.0]))
