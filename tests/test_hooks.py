"""Hooks against forward code written out by hand, and against autograd."""

from collections import namedtuple

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from microtome.core.errors import MicrotomeError
from microtome.hooks import first_tensor, record, record_gradients, replace, with_first_tensor

Pair = namedtuple("Pair", ["hidden", "extra"])


class Block(nn.Module):
    """A residual MLP whose output is a tensor, a tuple or a named tuple."""

    def __init__(self, kind: str = "tensor", shared: nn.Module | None = None):
        super().__init__()
        self.norm = shared or nn.LayerNorm(4)
        self.mlp = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4))
        self.kind = kind

    def forward(self, hidden, *, scale=1.0):
        out = hidden + scale * self.mlp(self.norm(hidden))
        if self.kind == "tuple":
            return (out, None)
        return Pair(out, 7) if self.kind == "named" else out


class Network(nn.Module):
    """Embedding, three blocks of different output kinds with one shared norm, a block called twice, head."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        norm = nn.LayerNorm(4)
        self.blocks = nn.ModuleList([Block("tensor", norm), Block("tuple", norm), Block("named")])
        self.again = nn.Linear(4, 4)
        self.head = nn.Linear(4, 5)

    def forward(self, ids):
        x = self.embed(ids)
        x = self.blocks[0](x)
        x = self.blocks[1](hidden=x, scale=0.5)[0]
        x = self.blocks[2](x).hidden
        x = x + torch.tanh(self.again(x))
        x = x + torch.tanh(self.again(x))
        return self.head(x)


NAMES = ["blocks.0", "blocks.0.mlp", "blocks.1", "blocks.1.mlp", "blocks.2", "blocks.2.mlp", "again"]


@pytest.fixture
def network():
    return Network().double()


@pytest.fixture
def ids():
    return torch.randint(0, 5, (3, 6))


def by_hand(network, ids, added=None):
    """Logits and site outputs without calling modules; ``added[name]`` joins a site's output."""
    sites, added = {}, added or {}

    def site(name, value):
        sites.setdefault(name, []).append(value + added[name] if name in added else value)
        return sites[name][-1]

    x = network.embed.weight[ids]
    for i, scale in enumerate((1.0, 0.5, 1.0)):
        block = network.blocks[i]
        normed = torch.nn.functional.layer_norm(x, (4,), block.norm.weight, block.norm.bias)
        inner = torch.tanh(normed @ block.mlp[0].weight.T + block.mlp[0].bias)
        x = site(
            f"blocks.{i}",
            x + scale * site(f"blocks.{i}.mlp", inner @ block.mlp[2].weight.T + block.mlp[2].bias),
        )
    for _ in range(2):
        x = x + torch.tanh(site("again", x @ network.again.weight.T + network.again.bias))
    return x @ network.head.weight.T + network.head.bias, sites


def test_record_gives_the_outputs_of_the_last_call(network, ids):
    logits, sites = by_hand(network, ids)
    with record(network, [*NAMES, "head"]) as found:
        network(ids)
    assert set(found) == {*NAMES, "head"}
    for name in NAMES:
        torch.testing.assert_close(found[name], sites[name][-1])
        assert not found[name].requires_grad
    torch.testing.assert_close(found["head"], logits)
    assert not any(module._forward_hooks for module in network.modules())


def test_record_gives_inputs_by_place_and_by_name(network, ids):
    _, sites = by_hand(network, ids)
    with record(network, ["blocks.1", "blocks.2", "head"], side="input") as found:
        network(ids)
    torch.testing.assert_close(found["blocks.1"], sites["blocks.0"][0])  # given by keyword
    torch.testing.assert_close(found["blocks.2"], sites["blocks.1"][0])
    assert found["head"].shape == (3, 6, 4)


def test_record_copies_nothing_and_keeps_the_graph_on_request(network, ids):
    with record(network, ["head"], detach=False) as found:
        logits = network(ids)
    assert found["head"] is logits and logits.requires_grad
    with record(network, ["head"]) as found:
        logits = network(ids)
    assert found["head"].data_ptr() == logits.data_ptr()


def test_one_module_under_two_names(network, ids):
    with record(network, ["blocks.0.norm", "blocks.1.norm"]) as found:
        network(ids)
    torch.testing.assert_close(found["blocks.0.norm"], found["blocks.1.norm"])


def test_replace_changes_what_the_rest_sees(network, ids):
    shift = torch.randn(3, 6, 4, dtype=torch.float64)
    changed = {"blocks.1.mlp": shift, "blocks.2": -shift}
    expected, _ = by_hand(network, ids, changed)
    functions = {name: lambda out, by=by: out + by for name, by in changed.items()}
    with replace(network, functions):
        torch.testing.assert_close(network(ids), expected)
    torch.testing.assert_close(network(ids), by_hand(network, ids)[0])


def test_replace_keeps_the_container_and_refuses_another_shape(network, ids):
    with replace(network, {"blocks.2": torch.zeros_like}), record(network, ["blocks.2"]) as found:
        out = network.blocks[2](torch.ones(2, 4, dtype=torch.float64))
    assert isinstance(out, Pair) and out.extra == 7 and not out.hidden.any()
    assert not found["blocks.2"].any()  # hooks of an inner block see what outer ones changed
    with replace(network, {"again": lambda out: out[..., :2]}), pytest.raises(MicrotomeError, match="shape"):
        network(ids)


def test_hooks_go_when_the_block_fails(network, ids):
    with pytest.raises(ZeroDivisionError), replace(network, {"again": lambda out: 1 / 0}):
        network(ids)
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize("frozen", [True, False])
def test_one_backward_gives_the_gradients_of_all_sites(network, ids, frozen):
    """Against the derivative by a tensor added to each site, one site at a time."""
    if frozen:
        network.requires_grad_(False)
    found = {}
    with record_gradients(network, NAMES, lambda name, x, g: found.setdefault(name, []).append((x, g))):
        loss = network(ids).square().sum()
        loss.backward()
    assert next(iter(found)) == "again" and list(found)[-1] == "blocks.0.mlp"
    if not frozen:
        assert network.embed.weight.grad is not None
    for name in NAMES:
        shape = (3, 6, 4)
        added = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
        logits, sites = by_hand(network, ids, {name: added})
        (expected,) = torch.autograd.grad(logits.square().sum(), added)
        # A module called twice acts twice, last call first; the added tensor's derivative is their sum.
        gradients = [gradient for _, gradient in found[name]]
        torch.testing.assert_close(sum(gradients), expected)
        assert len(gradients) == (2 if name == "again" else 1)
        for (activation, _), value in zip(found[name], reversed(sites[name]), strict=True):
            torch.testing.assert_close(activation, value.detach())
            assert not activation.requires_grad


def test_gradients_of_a_single_site_end_there(network, ids):
    """A frozen network: nothing before the site is differentiated."""
    network.requires_grad_(False)
    seen = []
    with (
        record_gradients(network, ["blocks.2.mlp"], lambda name, x, g: seen.append(name)),
        record(network, ["blocks.1"], detach=False) as found,
    ):
        network(ids).sum().backward()
    assert seen == ["blocks.2.mlp"]
    assert not found["blocks.1"].requires_grad


def test_gradients_without_a_graph_are_refused(network, ids):
    network.requires_grad_(False)
    with (
        record_gradients(network, ["again"], lambda *_: None),
        torch.no_grad(),
        pytest.raises(RuntimeError, match="no_grad"),
    ):
        network(ids)


def test_a_second_backward_is_refused(network, ids):
    with record_gradients(network, ["again"], lambda *_: None):
        loss = network(ids).sum()
        loss.backward(retain_graph=True)
        with pytest.raises(RuntimeError, match="one backward"):
            loss.backward()


def test_an_output_that_is_written_over_is_noticed():
    layer = nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True))
    with record_gradients(layer, ["0"], lambda *_: None):
        loss = layer(torch.randn(2, 3)).sum()
        with pytest.raises(RuntimeError, match="wrote over"):
            loss.backward()


def test_gradients_under_activation_checkpointing(network, ids):
    """Blocks that are run again in the backward pass act once, with the same gradients."""
    network.requires_grad_(False)
    names = ["blocks.0.mlp", "blocks.2.mlp", "blocks.2"]
    plain, saved = {}, {}
    with record_gradients(network, names, lambda name, x, g: plain.setdefault(name, []).append((x, g))):
        network(ids).square().sum().backward()
    for block in network.blocks:
        forward = block.forward
        block.forward = lambda *a, f=forward, **k: checkpoint(f, *a, use_reentrant=False, **k)
    with record_gradients(network, names, lambda name, x, g: saved.setdefault(name, []).append((x, g))):
        network(ids).square().sum().backward()
    assert plain.keys() == saved.keys()
    for name, calls in plain.items():
        torch.testing.assert_close(saved[name], calls)


def test_compiled_modules_run_uncompiled_inside_the_block(ids):
    network = Network()
    compiled = torch.compile(network, backend="eager")
    compiled(ids)  # compiled before there are hooks, which torch would then not notice
    with record(compiled, ["blocks.0.mlp"]) as found:
        compiled(ids)
    assert found["blocks.0.mlp"].shape == (3, 6, 4)
    network.blocks[0].mlp.compile(backend="eager")
    network(ids)
    with replace(network, {"blocks.0.mlp": torch.zeros_like}), record(network, ["blocks.0"]) as found:
        network(ids)
    torch.testing.assert_close(found["blocks.0"], network.embed(ids).detach())


def test_unknown_names_are_told_with_the_nearest(network):
    for block in (
        record(network, ["blocks.3"]),
        replace(network, {"blocks.3": torch.neg}),
        record_gradients(network, ["blocks.3"], lambda *_: None),
    ):
        with (
            pytest.raises(MicrotomeError, match=r"blocks\.3: the model has no such module; did you mean"),
            block,
        ):
            pass


def test_first_tensors():
    one, two = torch.ones(2), torch.zeros(2)
    assert first_tensor((None, one, two)) is one
    assert first_tensor({"a": None, "b": one}) is one
    assert with_first_tensor([one, 3], two) == [two, 3]
    assert with_first_tensor({"a": None, "b": one}, two)["b"] is two
    with pytest.raises(MicrotomeError, match="without a tensor"):
        first_tensor(None)
