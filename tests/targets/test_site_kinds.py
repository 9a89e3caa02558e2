"""Every kind of site: by its own weight it is the layer, by another weight the layer with that weight."""

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from microtome.core.errors import MicrotomeError
from microtome.targets.module_target import ModuleTarget
from microtome.targets.network import times


def conv1d(d_in: int, d_out: int) -> nn.Module:
    pytorch_utils = pytest.importorskip("transformers.pytorch_utils")
    return pytorch_utils.Conv1D(d_out, d_in)


class Scaled(nn.Embedding):
    """As Gemma 3's: a class with a forward pass of its own around the plain one."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 3


KINDS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Tensor], str]] = {
    "linear": (lambda: nn.Linear(4, 3), lambda n: torch.randn(n, 5, 4), "linear"),
    "conv1d": (lambda: conv1d(4, 3), lambda n: torch.randn(n, 5, 4), "linear"),
    "embedding": (lambda: nn.Embedding(7, 3), lambda n: torch.randint(7, (n, 5)), "embedding"),
    "scaled": (lambda: Scaled(7, 3), lambda n: torch.randint(7, (n, 5)), "embedding"),
    "conv2d": (
        lambda: nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2)),
        lambda n: torch.randn(n, 2, 7, 6),
        "conv2d",
    ),
}


def network(name: str) -> nn.Sequential:
    return nn.Sequential(KINDS[name][0](), nn.Tanh()).double()


def inputs(name: str, n: int) -> Tensor:
    x = KINDS[name][1](n)
    return x.double() if x.is_floating_point() else x


def with_weight(module: nn.Sequential, target: ModuleTarget, matrix: Tensor) -> nn.Sequential:
    """The module with ``matrix [d_in, d_out]`` in place of its layer's, put there through nn alone."""
    other = copy.deepcopy(module)
    stored = other[0].weight
    assert isinstance(stored, Tensor)
    new = matrix if stored.shape == matrix.shape and target.sites()["0"].kind != "linear" else matrix.T
    if type(module[0]).__name__ == "Conv1D":
        new = matrix
    stored.data = new.reshape(stored.shape).clone()
    return other


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("n_instances", [1, 2])
def test_by_its_own_weight_it_is_the_layer(name: str, n_instances: int) -> None:
    module = network(name)
    target = ModuleTarget(module, n_instances=n_instances)
    x = torch.stack([inputs(name, 3) for _ in range(n_instances)])
    site = target.sites()["0"]
    assert site.kind == KINDS[name][2]
    seen = []

    def as_trained(name: str, value: Tensor) -> Tensor:
        seen.append(tuple(value.shape[:2]))
        return site.apply(value)

    expected = torch.stack([module(row) for row in x])
    torch.testing.assert_close(target(x), expected)
    torch.testing.assert_close(target(x, as_trained), expected)
    assert seen == [(n_instances, 3)]


@pytest.mark.parametrize("name", KINDS)
def test_gradients_are_the_layers(name: str) -> None:
    module = network(name)
    target = ModuleTarget(module)
    x = inputs(name, 3)
    site = target.sites()["0"]
    weight = site.weight.clone().requires_grad_()
    own_x = x.clone().requires_grad_(x.is_floating_point())

    def replaced(_: str, value: Tensor) -> Tensor:
        out = times(value, weight)
        return out if site.bias is None else out + site.bias.reshape(-1)

    direction = torch.randn_like(module(x))
    (target(own_x.unsqueeze(0), replaced)[0] * direction).sum().backward()
    other_x = x.clone().requires_grad_(x.is_floating_point())
    (module(other_x) * direction).sum().backward()
    probe = ModuleTarget(module)
    probe.module[0].weight.data = module[0].weight.grad  # pyright: ignore
    torch.testing.assert_close(weight.grad, probe.sites()["0"].weight)
    if x.is_floating_point():
        torch.testing.assert_close(own_x.grad, other_x.grad)


@pytest.mark.parametrize("name", KINDS)
def test_masks_of_every_row_equal_one_network_a_row(name: str) -> None:
    """Rank-one pieces weighed differently for each row, against a module a row with the weights."""
    module = network(name)
    target = ModuleTarget(module, n_instances=2)
    x = torch.stack([inputs(name, 3) for _ in range(2)])
    site = target.sites()["0"]
    _, d_in, d_out = site.weight.shape
    v = torch.randn(2, d_in, 4, dtype=torch.double)
    u = torch.randn(2, 4, d_out, dtype=torch.double)
    mask = torch.rand(2, 3, 4, dtype=torch.double)

    def masked(_: str, value: Tensor) -> Tensor:
        inner = times(value, v)
        weighed = inner * mask.reshape(2, 3, *[1] * (inner.ndim - 3), 4)
        out = times(weighed, u)
        return out if site.bias is None else out + site.bias.reshape(2, *[1] * (out.ndim - 2), -1)

    out = target(x, masked)
    for k in range(2):
        for row in range(3):
            own = with_weight(module, target, v[k] @ mask[k, row].diag() @ u[k])
            torch.testing.assert_close(out[k, row], own(x[k, row : row + 1])[0])


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@settings(max_examples=30, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.sampled_from([0, 1, (2, 1), "valid", "same"]),
    mode=st.sampled_from(["zeros", "reflect", "replicate", "circular"]),
    bias=st.booleans(),
)
def test_every_convolution(kernel, stride, dilation, padding, mode, bias: bool) -> None:
    stride = (1, 1) if padding == "same" else stride
    layer = nn.Conv2d(2, 3, kernel, stride, padding, dilation, bias=bias, padding_mode=mode).double()
    target = ModuleTarget(nn.Sequential(layer))
    x = torch.randn(1, 2, 2, 8, 9, dtype=torch.double)
    out = target(x, lambda name, value: target.sites()[name].apply(value))
    torch.testing.assert_close(out[0], layer(x[0]))


def test_a_convolution_takes_batches_only() -> None:
    class OneImage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([self.conv(image) for image in x])

    target = ModuleTarget(OneImage())
    with pytest.raises(MicrotomeError, match=r"conv: input of shape \[1, 5, 5\]; give images in batches"):
        target(torch.randn(1, 3, 1, 5, 5), lambda name, value: target.sites()[name].apply(value))


class Positions(nn.Module):
    """A language model in small, its positions given once for all rows, its unembedding tied."""

    def __init__(self, batched: bool) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(9, 4), nn.Embedding(6, 4)
        self.mix = nn.Linear(4, 4)
        self.head = nn.Linear(4, 9, bias=False)
        self.head.weight = self.tokens.weight
        self.batched = batched

    def forward(self, ids: Tensor) -> Tensor:
        where = torch.arange(ids.shape[1])
        where = where.unsqueeze(0) if self.batched else where
        return self.head(self.mix(self.tokens(ids) + self.positions(where)).tanh())


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("length", [3, 4, 6])  # as long as there are rows, too
def test_positions_reach_their_site_for_every_row(batched: bool, length: int) -> None:
    module = Positions(batched)
    target = ModuleTarget(module, n_instances=2)
    x = torch.randint(9, (2, 3, length))
    shapes = {}

    def site(name: str, value: Tensor) -> Tensor:
        shapes[name] = tuple(value.shape)
        return target.sites()[name].apply(value)

    torch.testing.assert_close(target(x, site), torch.stack([module(row) for row in x]))
    assert shapes["tokens"] == shapes["positions"] == (2, 3, length)
    assert shapes["mix"] == shapes["head"] == (2, 3, length, 4)


def test_a_tied_unembedding_is_one_with_its_embedding() -> None:
    target = ModuleTarget(Positions(True))
    sites = target.sites()
    assert {name: site.tied_to for name, site in sites.items() if site.tied_to} == {"head": "tokens"}
    torch.testing.assert_close(sites["head"].weight, sites["tokens"].weight.mT)
    assert ModuleTarget(Positions(True), ["head"]).sites()["head"].tied_to is None
    again = ModuleTarget(Positions(True), sharing=target.spec()["sharing"])
    assert again.sites()["head"].tied_to == "tokens"


def test_identities_are_inserted_before_their_layer() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    target = ModuleTarget(module, ["0", "2"], n_instances=2, identities=["2"])
    sites = target.sites()
    assert list(sites) == ["0", "2.pre_identity", "2"]
    assert sites["2.pre_identity"].kind == "identity"
    torch.testing.assert_close(sites["2.pre_identity"].weight, torch.eye(3).double().expand(2, 3, 3))
    x = torch.randn(2, 5, 4, dtype=torch.double)
    torch.testing.assert_close(target(x, lambda name, value: sites[name].apply(value)), target(x))
    matrix = torch.randn(2, 3, 3, dtype=torch.double)
    out = target(x, lambda n, v: v @ matrix if n == "2.pre_identity" else sites[n].apply(v))
    for k in range(2):
        expected = nn.functional.linear(module[:2](x[k]) @ matrix[k], module[2].weight, module[2].bias)  # pyright: ignore
        torch.testing.assert_close(out[k], expected)
    torch.testing.assert_close(target(x), torch.stack([module(row) for row in x]))  # and taken out again


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4), nn.ReLU()) for _ in range(2)
        )
        self.norm = nn.BatchNorm1d(4)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return self.act(self.norm(x))


def test_identities_alone_and_before_whole_blocks() -> None:
    module = Blocks().double().eval()
    target = ModuleTarget(module, [], identities=["blocks.*", "blocks.1"])
    assert list(target.sites()) == [
        "blocks.0.1.pre_identity",
        "blocks.1.pre_identity",
        "blocks.1.1.pre_identity",
    ]
    x = torch.randn(1, 5, 4, dtype=torch.double)
    out = target(x, lambda n, v: v * 0 if n == "blocks.1.pre_identity" else v)
    first = x[0] + module.blocks[0](x[0])
    torch.testing.assert_close(out[0], (module.norm(first + module.blocks[1](first * 0))).relu())


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("act", "layer of type ReLU, whose input width is not known; name a linear layer"),
        ("norm", "layer of type BatchNorm1d, whose input width is not known"),
        ("gone", r"matches no layer; there are: blocks.\{0-1\}.1"),
        ("g*", "matches no layer"),
    ],
)
def test_identities_that_cannot_be(pattern: str, told: str) -> None:
    with pytest.raises(MicrotomeError, match=f"identities='{pattern[0]}.*{told}"):
        ModuleTarget(Blocks(), [], identities=[pattern])


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(2, 2, 3, groups=2)
        self.line = nn.Conv1d(2, 2, 3)
        self.lstm = nn.LSTM(3, 3)
        self.attention = nn.MultiheadAttention(4, 2)
        self.limited = nn.Embedding(3, 3, max_norm=1)
        self.norm = nn.LayerNorm(3)
        self.fine = nn.Linear(3, 3)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("grouped", "layer of type Conv2d with groups=2"),
        ("line", "layer of type Conv1d, which"),
        ("lstm", "layer of type LSTM, which"),
        ("attention", "layer of type MultiheadAttention, which"),
        ("attention.out_proj", "layer of type NonDynamicallyQuantizableLinear inside MultiheadAttention"),
        ("limited", "layer of type Embedding with max_norm"),
        ("norm", "layer of type LayerNorm, which"),
    ],
)
def test_what_cannot_be_decomposed_is_named_with_its_type(name: str, told: str) -> None:
    with pytest.raises(MicrotomeError) as error:
        ModuleTarget(Odd(), ["fine", name])
    line = str(error.value)
    assert f"'{name}': {told}" in line and "cannot be decomposed" in line
    assert line.endswith(
        "kinds that can: nn.Linear, nn.Embedding, transformers Conv1D, nn.Conv2d with groups=1"
    )
    assert "\n" not in line


def test_a_wildcard_passes_by_what_cannot_be_decomposed() -> None:
    assert list(ModuleTarget(Odd(), ["*"]).sites()) == ["fine"]
    with pytest.raises(MicrotomeError, match=r"'l\*': matches no site; there are: fine$"):
        ModuleTarget(Odd(), ["l*"])
    with pytest.raises(MicrotomeError, match="there are: none, as it has no layer"):
        ModuleTarget(nn.Sequential(nn.ReLU()), ["*"])


def test_layers_without_a_size_yet() -> None:
    with pytest.raises(MicrotomeError, match=r"1\.weight: LazyLinear has no size yet; run the module once"):
        ModuleTarget(nn.Sequential(nn.Linear(3, 3), nn.LazyLinear(2)), ["0"])


class TimeFirst(nn.Module):
    """Rows on the second axis, as nn.MultiheadAttention likes them."""

    def forward(self, layer: nn.Linear, x: Tensor) -> Tensor:
        return layer(x.transpose(0, 1)).transpose(0, 1)


class Flattened(nn.Module):
    def forward(self, layer: nn.Linear, x: Tensor) -> Tensor:
        return layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class OneAfterAnother(nn.Module):
    """First the first position of all rows, then the second of all."""

    def forward(self, layer: nn.Linear, x: Tensor) -> Tensor:
        return layer(torch.cat(list(x.unbind(1)))).unflatten(0, (x.shape[1], -1)).transpose(0, 1)


class Around(nn.Module):
    def __init__(self, how: nn.Module) -> None:
        super().__init__()
        self.how, self.layer = how, nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.how(self.layer, x)


@pytest.mark.parametrize("how", [TimeFirst(), Flattened(), OneAfterAnother()])
@pytest.mark.parametrize("length", [2, 3, 6])  # as many as instances, as rows of one, as rows
def test_wherever_the_rows_lie_each_instance_gets_its_own(how: nn.Module, length: int) -> None:
    module = Around(how)
    target = ModuleTarget(module, n_instances=2)
    x = torch.randn(2, 3, length, 3)
    seen = []

    def site(name: str, value: Tensor) -> Tensor:
        seen.append(value)
        return target.sites()[name].apply(value) * torch.tensor([1.0, 10.0]).reshape(2, 1, 1, 1)

    out = target(x, site)
    torch.testing.assert_close(out[0], module(x[0]))
    torch.testing.assert_close(out[1], 10 * module(x[1]))
    torch.testing.assert_close(seen[0], x)


class Constant(nn.Module):
    """Relative positions and a fixed input through a layer: the same for all rows, of any shape."""

    def __init__(self) -> None:
        super().__init__()
        self.distance, self.tokens, self.mix = nn.Embedding(9, 1), nn.Embedding(7, 4), nn.Linear(4, 4)
        self.register_buffer("fixed", torch.randn(5, 4))

    def forward(self, ids: Tensor) -> Tensor:
        where = torch.arange(ids.shape[1])
        weight = self.distance(where.unsqueeze(0) - where.unsqueeze(1) + 4).squeeze(-1).softmax(-1)
        return weight @ self.tokens(ids) + self.mix(self.fixed)


def test_inputs_that_all_rows_have_in_common_are_given_to_each() -> None:
    module = Constant()
    target = ModuleTarget(module, n_instances=2)
    x = torch.randint(7, (2, 3, 5))
    shapes = {}

    def site(name: str, value: Tensor) -> Tensor:
        shapes[name] = tuple(value.shape)
        out = target.sites()[name].apply(value)
        return out * torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1) if name == "mix" else out

    out = target(x, site)
    torch.testing.assert_close(out[0], module(x[0]))
    torch.testing.assert_close(out[1], module(x[1]) + 2 * module.mix(module.fixed))
    assert shapes == {"distance": (2, 3, 5, 5), "tokens": (2, 3, 5), "mix": (2, 3, 5, 4)}


def test_a_layer_that_sees_some_rows_only() -> None:
    class Some(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            first = x[:, 0] > 0
            return x.index_put((first,), self.layer(x[first]))

    target = ModuleTarget(Some())
    x = torch.tensor([[[1.0, 0, 0], [-1, 0, 0], [1, 0, 0], [-1, 0, 0], [-1, 0, 0]]])
    with pytest.raises(MicrotomeError, match="layer: is given 2 rows of a batch of 5"):
        target(x, lambda name, value: target.sites()[name].apply(value))


def test_a_dropped_layer_leaves_its_site_to_those_that_share_it() -> None:
    module = nn.ModuleDict({name: nn.Linear(4, 4, bias=False) for name in "abcd"})
    module["b"].weight = module["a"].weight
    module["c"].weight.data = module["a"].weight.data.T
    target = ModuleTarget(module)
    assert target.sharing == {"layers": {"a": "a", "b": "a", "c": "c", "d": "d"}, "tied": {"c": "a"}}
    target.drop(["a", "d"])
    assert target.sharing == {"layers": {"b": "b", "c": "c"}, "tied": {"c": "b"}}
    target.drop(["b"])
    assert target.sharing == {"layers": {"c": "c"}, "tied": {}}


def test_rows_that_are_one_id() -> None:
    module = nn.Sequential(nn.Embedding(7, 3), nn.Linear(3, 2))
    target = ModuleTarget(module, n_instances=2)
    x = torch.randint(7, (2, 5))
    out = target(x, lambda name, value: target.sites()[name].apply(value))
    torch.testing.assert_close(out, torch.stack([module(row) for row in x]))
