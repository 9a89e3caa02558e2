import json
from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from microtome.core.errors import CannotLoad, MicrotomeError
from microtome.targets.loading import build
from microtome.targets.module_target import ModuleTarget


class Block(nn.Module):
    """Named layers, one used twice, dropout, and a layer that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(4, 6)
        self.mix = nn.Linear(6, 6, bias=False)
        self.down = nn.Linear(6, 4)
        self.idle = nn.Linear(4, 4)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.mix(self.mix(self.drop(self.up(x)).relu()))
        return self.down(hidden)


def as_trained(target: ModuleTarget):
    return lambda name, value: target.sites()[name].apply(value)


@pytest.mark.parametrize("extra", [(), (3,), (2, 3)])
def test_equals_the_module(extra: tuple[int, ...]) -> None:
    module = Block().eval()
    target = ModuleTarget(module, ["up", "mix", "down"], n_instances=2)
    x = torch.randn(2, 5, *extra, 4)
    shapes = {}

    def site(name: str, value: Tensor) -> Tensor:
        shapes[name] = tuple(value.shape)
        return target.sites()[name].apply(value)

    torch.testing.assert_close(target(x), module(x))
    torch.testing.assert_close(target(x, site), module(x))
    assert shapes == {"up": (2, 5, *extra, 4), "mix": (2, 5, *extra, 6), "down": (2, 5, *extra, 6)}


def test_instances_get_their_own_replacement() -> None:
    target = ModuleTarget(nn.Linear(3, 2), n_instances=2)
    scale = torch.tensor([1.0, 10.0]).reshape(2, 1, 1)
    x = torch.randn(1, 4, 3).expand(2, 4, 3)
    out = target(x, lambda name, value: target.sites()[name].apply(value) * scale)
    torch.testing.assert_close(out[1], 10 * out[0])


def test_the_users_module_is_left_alone() -> None:
    module = Block().train()
    target = ModuleTarget(module, ["up"])
    target.train()
    x = torch.randn(1, 5, 4)
    assert torch.equal(target(x), target(x))  # no dropout
    assert module.training and all(parameter.requires_grad for parameter in module.parameters())
    before = target(x)
    with torch.no_grad():
        module.up.weight.zero_()
    assert torch.equal(target(x), before)


def test_the_original_layer_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    target = ModuleTarget(nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)), ["0"])
    widths = []
    linear = nn.functional.linear
    monkeypatch.setattr(
        nn.functional, "linear", lambda x, w, b=None: widths.append(len(w)) or linear(x, w, b)
    )
    for _ in range(2):  # the first time, where the rows lie is found by running the module itself
        widths.clear()
        target(torch.randn(1, 4, 3), lambda name, value: torch.zeros(1, 4, 3))
    assert widths == [2]
    target(torch.randn(1, 4, 3))
    assert widths == [2, 3, 2]


def test_layers_come_back_after_an_exception() -> None:
    target = ModuleTarget(Block(), ["up"])
    x = torch.randn(1, 5, 4)
    before = target(x)

    def broken(name: str, value: Tensor) -> Tensor:
        raise KeyError(name)

    with pytest.raises(KeyError):
        target(x, broken)
    assert torch.equal(target(x), before)


def test_unknown_pattern_lists_the_sites() -> None:
    with pytest.raises(MicrotomeError, match=r"layers.*matches no site; there are: up, mix, down, idle"):
        ModuleTarget(Block(), ["up", "layers.*"])


def test_a_site_that_does_not_run_is_refused() -> None:
    target = ModuleTarget(Block(), ["*"])
    with pytest.raises(MicrotomeError, match="'idle' did not run"):
        target(torch.randn(1, 5, 4), as_trained(target))


def test_layer_used_twice_is_one_site_called_twice() -> None:
    target = ModuleTarget(Block(), ["mix"])
    calls = []

    def site(name: str, value: Tensor) -> Tensor:
        calls.append(name)
        return target.sites()[name].apply(value)

    target(torch.randn(1, 5, 4), site)
    assert calls == ["mix", "mix"]


def test_shared_weight_with_different_biases_is_one_site() -> None:
    module = nn.Sequential(
        nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4, bias=False)
    )
    module[2].weight = module[0].weight
    module[4].weight = module[0].weight
    target = ModuleTarget(module, ["*"])
    assert list(target.sites()) == ["0"]
    x = torch.randn(1, 5, 4)
    torch.testing.assert_close(target(x, as_trained(target)), module(x))
    again = build(target.spec())  # a rebuilt module no longer shares memory, the sites must stay the same
    again.load_state_dict(target.state_dict())
    assert list(again.sites()) == ["0"]


def test_transposed_weight_in_the_same_memory_is_tied() -> None:
    module = nn.Sequential(nn.Linear(5, 2, bias=False), nn.Linear(2, 5))
    module[1].weight.data = module[0].weight.data.T
    target = ModuleTarget(module, ["*"])
    assert target.sites()["1"].tied_to == target.select([0, 0]).sites()["1"].tied_to == "0"
    assert build(target.spec()).sites()["1"].tied_to == "0"
    module[1].weight.data = module[0].weight.data.T.clone()
    assert ModuleTarget(module, ["*"]).sites()["1"].tied_to is None


def test_transformer_layers_run_through_their_sites() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    target = ModuleTarget(layer, ["linear1", "linear2"], n_instances=2)
    x = torch.randn(2, 3, 4, 8)
    with torch.no_grad():  # where torch would take its fused path
        torch.testing.assert_close(target(x, as_trained(target)), target(x))


def test_named_output() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": self.fc(x)}

    module = Wrapped()
    x = torch.randn(1, 4, 3)
    torch.testing.assert_close(ModuleTarget(module, output="logits")(x), module.fc(x))
    with pytest.raises(MicrotomeError, match="output='logits'"):
        ModuleTarget(module)(x)
    with pytest.raises(MicrotomeError, match="no such tensor"):
        ModuleTarget(module, output="scores")(x)


def test_select_and_spec_of_a_sequential() -> None:
    module = nn.Sequential(
        nn.Flatten(), nn.Linear(6, 5), nn.GELU(), nn.LayerNorm(5), nn.Linear(5, 2, bias=False)
    )
    target = ModuleTarget(module, ["1", "4"])
    again = build(target.spec())
    again.load_state_dict(target.state_dict())
    x = torch.randn(1, 4, 2, 3)
    torch.testing.assert_close(again(x), target(x))
    three = target.select([0, 0, 0])
    torch.testing.assert_close(three(x.expand(3, -1, -1, -1))[2], target(x)[0])


def test_select_and_spec_of_a_convolutional_network() -> None:
    module = nn.Sequential(
        OrderedDict(
            first=nn.Conv2d(
                1, 4, (3, 2), stride=(2, 1), padding="valid", bias=False, padding_mode="circular"
            ),
            norm=nn.BatchNorm2d(4, affine=False),
            act=nn.Mish(),
            groups=nn.GroupNorm(2, 4),
            pool=nn.MaxPool2d(2, stride=1, ceil_mode=True),
            mean=nn.AdaptiveAvgPool2d((2, None)),
            flat=nn.Flatten(),
            head=nn.Linear(48, 2),
        )
    )
    module(torch.randn(5, 1, 9, 8))  # running statistics
    target = ModuleTarget(module, ["first", "head"], identities=["head"])
    again = build(json.loads(json.dumps(target.spec())))
    again.load_state_dict(target.state_dict())
    x = torch.randn(1, 4, 1, 9, 8)
    assert torch.equal(again(x), target(x))
    assert list(again.sites()) == list(target.sites()) == ["first", "head.pre_identity", "head"]


def test_spec_of_a_sequence_from_ids() -> None:
    module = nn.Sequential(nn.Embedding(5, 3, padding_idx=0), nn.RMSNorm(3), nn.Linear(3, 5, bias=False))
    module[2].weight = module[0].weight  # tied
    target = ModuleTarget(module)
    again = build(json.loads(json.dumps(target.spec())))
    again.load_state_dict(target.state_dict())
    x = torch.randint(5, (1, 4, 6))
    assert torch.equal(again(x), target(x))
    assert again.sites()["2"].tied_to == "0"


def test_a_class_that_cannot_be_made_again_says_what_to_do() -> None:
    class Local(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.fc = nn.Linear(width, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x)

    target = ModuleTarget(Local(3))
    with pytest.raises(CannotLoad, match="pass the module yourself"):
        build(target.spec())
    again = build(target.spec(), module=Local(3))
    again.load_state_dict(target.state_dict())
    x = torch.randn(1, 4, 3)
    torch.testing.assert_close(again(x), target(x))


@pytest.mark.filterwarnings("ignore:.*weight_norm")
@pytest.mark.parametrize(
    "normed",
    [
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
    ],
)
def test_weights_that_are_worked_out_at_every_call(normed: Callable[[nn.Module], nn.Module]) -> None:
    module = nn.Sequential(normed(nn.Linear(4, 3)), nn.ReLU(), nn.Linear(3, 2))
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
    module(torch.randn(5, 4)).square().sum().backward()
    optimiser.step()  # what the layer holds is the weight of before
    target = ModuleTarget(module)
    x = torch.randn(1, 5, 4)
    expected = module.eval()(x[0])
    torch.testing.assert_close(target(x)[0], expected)
    torch.testing.assert_close(target(x, as_trained(target))[0], expected)
    for _ in range(3):
        module.train()(torch.randn(5, 4))
    optimiser.step()
    target.module.load_state_dict(module.state_dict())
    torch.testing.assert_close(target(x, as_trained(target))[0], module.eval()(x[0]))


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_wrappers_are_taken_off() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    for wrapped in (torch.compile(module), nn.DataParallel(module)):
        assert isinstance(wrapped, nn.Module)
        target = ModuleTarget(wrapped)
        assert list(target.sites()) == ["0"] and type(target.module) is nn.Sequential


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_scripted_module() -> None:
    with pytest.raises(MicrotomeError, match="scripted, so that its layers cannot be replaced"):
        ModuleTarget(torch.jit.script(nn.Sequential(nn.Linear(3, 2))))


def test_a_class_with_a_forward_pass_of_its_own() -> None:
    class Doubled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return nn.functional.linear(input, 2 * self.weight, self.bias)

    class Adapted(nn.Linear):
        """As LoRA layers: something beside the weight."""

        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) + input.sum(-1, keepdim=True)

    target = ModuleTarget(nn.Sequential(Doubled(3, 2)))
    with pytest.raises(MicrotomeError, match=r"forward pass of Doubled does not call super\(\).forward"):
        target(torch.randn(1, 5, 3), as_trained(target))
    module = nn.Sequential(Adapted(3, 2))
    target = ModuleTarget(module)
    x = torch.randn(1, 5, 3)
    torch.testing.assert_close(target(x, as_trained(target))[0], module(x[0]))
    without = target(x, lambda name, value: torch.zeros(1, 5, 2))
    torch.testing.assert_close(without, x.sum(-1, keepdim=True).expand(1, 5, 2))
    assert type(target.module[0]) is Adapted  # pyright: ignore[reportIndexIssue]


class OwnWay(nn.Linear):
    """As Falcon's: the plain layer, written out."""

    def forward(self, input: Tensor) -> Tensor:
        return input @ self.weight.T + self.bias


class Shifted(nn.Embedding):
    """As OPT's positions: ids that it makes itself, the same for all rows."""

    def forward(self, mask: Tensor, past: int = 0) -> Tensor:
        return super().forward(torch.arange(mask.shape[1]).unsqueeze(0) + past + 2)


class WithPositions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.positions, self.own = Shifted(9, 4), OwnWay(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.own(input=x + self.positions(x[:, :, 0], past=0))


def test_classes_that_go_their_own_way_to_the_plain_layer() -> None:
    module = WithPositions()
    target = ModuleTarget(module, n_instances=2)
    x = torch.randn(2, 3, 5, 4)
    shapes = {}

    def site(name: str, value: Tensor) -> Tensor:
        shapes[name] = tuple(value.shape)
        return target.sites()[name].apply(value) * (1 if name == "own" else 0)

    torch.testing.assert_close(target(x, as_trained(target))[1], module(x[1]))
    torch.testing.assert_close(target(x, site)[1], module.own(x[1]))
    assert shapes == {"positions": (2, 3, 5), "own": (2, 3, 5, 4)}
    assert type(target.module.own) is OwnWay and type(target.module.positions) is Shifted
