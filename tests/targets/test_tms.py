import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.core.errors import MicrotomeError
from microtome.targets.config import TMSModelConfig
from microtome.targets.tms import TMS


def tiny() -> TMS:
    """Two features in one dimension, worked by hand: W = (2, -1), b = (0.5, 3)."""
    target = TMS(TMSModelConfig(n_features=2, n_hidden=1))
    with torch.no_grad():
        target.linear1.weight.copy_(torch.tensor([[[2.0], [-1.0]]]))
        target.b_final.copy_(torch.tensor([[0.5, 3.0]]))
    return target


def test_worked_by_hand() -> None:
    # x = (1, 0): hidden 2, before relu (4.5, 1). x = (0, 1): hidden -1, (-1.5, 4) and relu makes the first 0.
    x = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 2.0]]])
    assert tiny()(x).tolist() == [[[4.5, 1.0], [0.0, 4.0], [0.5, 3.0]]]


def test_sites_are_the_network() -> None:
    target = TMS(TMSModelConfig(n_features=5, n_hidden=2, n_hidden_layers=2, n_instances=3)).reset(1)
    seen = []

    def as_trained(name: str, value: torch.Tensor) -> torch.Tensor:
        seen.append(name)
        return target.sites()[name].apply(value)

    x = torch.rand(3, 7, 5)
    assert torch.equal(target(x, as_trained), target(x))
    assert seen == list(target.sites()) == ["linear1", "hidden_layers.0", "hidden_layers.1", "linear2"]


def test_a_site_function_replaces_the_layer() -> None:
    # With the last layer's output replaced by zero only relu(b) is left.
    target = tiny()
    zero = target(
        torch.rand(1, 4, 2),
        lambda name, v: target.sites()[name].apply(v) if name != "linear2" else torch.zeros(1, 4, 2),
    )
    assert torch.equal(zero, torch.tensor([0.5, 3.0]).expand(1, 4, 2))


def test_tied_weights_are_one_parameter() -> None:
    target = TMS(TMSModelConfig(n_features=5, n_hidden=2, n_instances=2)).reset()
    assert [name for name, _ in target.named_parameters()] == ["b_final", "linear1.weight"]
    assert target.sites()["linear2"].tied_to == "linear1"
    first, last = target.sites()["linear1"].weight, target.sites()["linear2"].weight
    assert last.data_ptr() == first.data_ptr()
    # The gradient of the one matrix is the sum of both uses: d/dw sum(w w^T x) at n = h = 1 is 2 w x.
    one = TMS(TMSModelConfig(n_features=1, n_hidden=1))
    with torch.no_grad():
        one.linear1.weight.fill_(3.0)
    one(torch.full((1, 1, 1), 0.5)).sum().backward()
    assert one.linear1.weight.grad is not None
    assert one.linear1.weight.grad.item() == pytest.approx(2 * 3.0 * 0.5)


def test_untied_weights_are_two_parameters() -> None:
    target = TMS(TMSModelConfig(n_features=5, n_hidden=2, tied_weights=False)).reset()
    assert "linear2.weight" in target.state_dict()
    assert target.sites()["linear2"].tied_to is None
    assert not torch.equal(target.sites()["linear2"].weight, target.sites()["linear1"].weight.transpose(1, 2))


def test_instances_are_separate_networks() -> None:
    target = TMS(TMSModelConfig(n_features=6, n_hidden=3, n_hidden_layers=1, n_instances=4)).reset(3)
    x = torch.rand(4, 9, 6)
    for k in range(4):
        weight, hidden = target.linear1.weight[k], target.linear("hidden_layers.0").weight[k]
        alone = torch.relu(x[k] @ weight @ hidden @ weight.T + target.b_final[k])
        torch.testing.assert_close(target(x)[k], alone)


def test_select_copies_and_freezes() -> None:
    target = TMS(TMSModelConfig(n_features=5, n_hidden=2, n_instances=3)).reset()
    chosen = target.select([2, 0, 2])
    x = torch.rand(3, 4, 5)
    torch.testing.assert_close(chosen(x[[2, 0, 2]]), target(x)[[2, 0, 2]])
    assert not any(parameter.requires_grad for parameter in chosen.parameters())
    with torch.no_grad():
        target.linear1.weight.zero_()
    assert chosen.linear1.weight.abs().sum() > 0


@pytest.mark.parametrize("instances", [[], [3], [-1]])
def test_select_refuses_instances_that_are_not_there(instances: list[int]) -> None:
    with pytest.raises(MicrotomeError, match="instances="):
        TMS(TMSModelConfig(n_features=5, n_hidden=2, n_instances=3)).select(instances)


def test_start_values() -> None:
    config = TMSModelConfig(
        n_features=300, n_hidden=100, n_hidden_layers=1, n_instances=2, init_bias_to_zero=False
    )
    xavier = TMS(config).reset(0)
    assert xavier.linear1.weight.std().item() == pytest.approx(math.sqrt(2 / 400), rel=0.02)
    assert xavier.b_final.abs().max() == 0
    linear = TMS(config).reset(0, "linear")
    assert linear.linear1.weight.abs().max().item() == pytest.approx(1 / math.sqrt(300), rel=1e-3)
    assert linear.b_final.abs().max().item() == pytest.approx(0.1, rel=0.02)
    assert torch.equal(TMS(config).reset(0).linear1.weight, xavier.linear1.weight)
    assert not torch.equal(TMS(config).reset(1).linear1.weight, xavier.linear1.weight)


def test_instance_starts_the_same_alone_and_in_company() -> None:
    many = TMS(TMSModelConfig(n_features=5, n_hidden=2, n_instances=3)).reset(7)
    alone = TMS(TMSModelConfig(n_features=5, n_hidden=2, n_instances=1)).reset(7)
    assert torch.equal(many.linear1.weight[:1], alone.linear1.weight)


def test_fixed_hidden_layers() -> None:
    config = TMSModelConfig(n_features=40, n_hidden=30, n_hidden_layers=1, n_instances=2)
    identity = TMS(config).reset(0, hidden="identity").linear("hidden_layers.0").weight
    assert torch.equal(identity, torch.eye(30).expand(2, 30, 30)) and not identity.requires_grad
    random = TMS(config).reset(0, hidden="random").linear("hidden_layers.0").weight
    assert random.std().item() == pytest.approx(1, rel=0.1) and not random.requires_grad
    assert TMS(config).reset(0).linear("hidden_layers.0").weight.requires_grad


@settings(max_examples=20, deadline=None)
@given(
    k=st.integers(1, 3),
    b=st.integers(1, 4),
    n=st.integers(1, 5),
    h=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_output_is_never_negative_and_zero_input_gives_the_bias(
    k: int, b: int, n: int, h: int, seed: int
) -> None:
    target = TMS(TMSModelConfig(n_features=n, n_hidden=h, n_instances=k, init_bias_to_zero=False))
    target.reset(seed, "linear")
    assert (target(torch.randn(k, b, n)) >= 0).all()
    expected = target.b_final.relu().unsqueeze(1).expand(k, b, n)
    torch.testing.assert_close(target(torch.zeros(k, b, n)), expected)
