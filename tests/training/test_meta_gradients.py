"""Outer gradients against central differences, and the inner loop against one written by hand."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from microtome.core.errors import MicrotomeError
from microtome.data.few_shot import Episode
from microtome.targets.few_shot_convnet import FewShotConvNet
from microtome.training.inner_loop import classification_loss, head_of, inner_loop, inner_rates
from microtome.training.meta_gradients import meta_step


@pytest.fixture(autouse=True)
def in_double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def small_network() -> nn.Module:
    return FewShotConvNet(channels=3, blocks=2, image_size=8, n_classes=3)


def episode() -> Episode:
    return Episode(
        torch.randn(6, 1, 8, 8), torch.arange(3).repeat(2), torch.randn(9, 1, 8, 8), torch.arange(3).repeat(3)
    )


def parameters_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone().requires_grad_() for name, value in module.named_parameters()}


def adapted_by_hand(module, values, x, y, steps, lr, only=None):
    """Gradient descent on the module's own parameters, one ``backward`` a step."""
    names = [name for name, _ in module.named_parameters()]
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(values[name])
    for _ in range(steps):
        module.zero_grad()
        nn.functional.cross_entropy(module(x), y).backward()
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if only is None or name in only:
                    parameter -= lr * parameter.grad
    return {name: dict(module.named_parameters())[name].detach().clone() for name in names}


def query_loss_by_hand(module, values, task, steps, lr, only=None):
    after = adapted_by_hand(module, values, task.support_x, task.support_y, steps, lr, only)
    with torch.no_grad():
        return float(
            nn.functional.cross_entropy(functional_call(module, after, (task.query_x,)), task.query_y)
        )


def central_differences(loss, values, n=25, width=1e-5):
    """``n`` randomly chosen entries: (name, index, derivative)."""
    rng = np.random.default_rng(0)
    names, found = list(values), []
    for _ in range(n):
        name = names[rng.integers(len(names))]
        index = tuple(rng.integers(size) for size in values[name].shape)
        sides = []
        for sign in (1, -1):
            moved = {key: value.detach().clone() for key, value in values.items()}
            moved[name][index] += sign * width
            sides.append(loss(moved))
        found.append((name, index, (sides[0] - sides[1]) / (2 * width)))
    return found


@pytest.mark.parametrize("steps", [1, 3])
def test_maml_differentiates_through_the_inner_loop(steps):
    module, task = small_network(), episode()
    values = parameters_of(module)
    found = meta_step("maml", module, values, task, steps=steps, lr=0.3)
    assert found.loss == pytest.approx(query_loss_by_hand(module, values, task, steps, 0.3))
    slow = central_differences(lambda moved: query_loss_by_hand(module, moved, task, steps, 0.3), values)
    for name, index, derivative in slow:
        assert float(found.gradients[name][index]) == pytest.approx(derivative, abs=2e-6)
    first = meta_step("fomaml", module, values, task, steps=steps, lr=0.3)
    gap = max(float((first.gradients[n] - found.gradients[n]).abs().max()) for n in values)
    assert gap > 1e-3  # the test would not tell the two apart otherwise


def test_first_order_maml_is_the_gradient_at_the_adapted_values():
    module, task = small_network(), episode()
    values = parameters_of(module)
    found = meta_step("fomaml", module, values, task, steps=2, lr=0.3)
    after = adapted_by_hand(module, values, task.support_x, task.support_y, 2, 0.3)
    after = {name: value.requires_grad_() for name, value in after.items()}
    loss = nn.functional.cross_entropy(functional_call(module, after, (task.query_x,)), task.query_y)
    for name, gradient in zip(after, torch.autograd.grad(loss, list(after.values())), strict=True):
        torch.testing.assert_close(found.gradients[name], gradient)


def test_anil_moves_the_head_alone_and_differentiates_through_that():
    module, task = small_network(), episode()
    values = parameters_of(module)
    head = ["classifier.weight", "classifier.bias"]
    after = inner_loop(
        module, values, task.support_x, task.support_y, steps=2, lr=0.3, second_order=True, only=head
    )
    assert [name for name in values if not torch.equal(after[name], values[name])] == head
    found = meta_step("anil", module, values, task, steps=2, lr=0.3)
    slow = central_differences(lambda moved: query_loss_by_hand(module, moved, task, 2, 0.3, head), values)
    for name, index, derivative in slow:
        assert float(found.gradients[name][index]) == pytest.approx(derivative, abs=2e-6)


def test_reptile_is_the_mean_gradient_along_the_way():
    module, task = small_network(), episode()
    values = parameters_of(module)
    found = meta_step("reptile", module, values, task, steps=4, lr=0.05)
    x, y = torch.cat([task.support_x, task.query_x]), torch.cat([task.support_y, task.query_y])
    after = adapted_by_hand(module, values, x, y, 4, 0.05)
    for name in values:
        torch.testing.assert_close(found.gradients[name], (values[name] - after[name]).detach() / 0.2)


def test_learned_rates_have_the_gradient_of_the_query_loss():
    module, task = small_network(), episode()
    values = parameters_of(module)
    rates = {name: torch.tensor([0.1 + 0.01 * i]).requires_grad_() for i, name in enumerate(values)}

    def loss(rates):
        after = inner_loop(
            module, values, task.support_x, task.support_y, steps=2, lr=rates, second_order=True
        )
        return classification_loss(functional_call(module, after, (task.query_x,)), task.query_y)

    exact = torch.autograd.grad(loss(rates), list(rates.values()))
    for name, gradient in zip(rates, exact, strict=True):
        sides = [loss({**rates, name: rates[name] + sign * 1e-5}).item() for sign in (1, -1)]
        assert float(gradient) == pytest.approx((sides[0] - sides[1]) / 2e-5, abs=1e-6)


def test_rates_that_a_network_learns_belong_to_its_layers():
    names = ["conv1.weight", "bn2.bias", "fc_layers.1.weight", "layer_norms.0.weight", "classifier.bias"]
    learned = ["lr_conv.0", "lr_conv.1", "lr_fc.0", "lr_fc.1", "lr_classifier"]
    rates = inner_rates({name: torch.tensor([float(i)]) for i, name in enumerate(names + learned)}, 0.4)
    assert isinstance(rates, dict)
    assert {name: float(rate) for name, rate in rates.items()} == dict(
        zip(names, [5, 6, 8, 7, 9], strict=True)
    )
    assert inner_rates({"classifier.bias": torch.zeros(1)}, 0.4) == 0.4


def test_losses_of_logits_and_of_probabilities_are_the_same():
    logits, y = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
    assert float(classification_loss(logits.softmax(1), y)) == pytest.approx(
        float(classification_loss(logits, y))
    )
    by_hand = -np.log(np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(1, keepdims=True))
    assert float(classification_loss(logits, y)) == pytest.approx(by_hand[range(5), y.numpy()].mean())


def test_a_network_without_linear_layer_is_refused():
    assert head_of(small_network())[0] == "classifier"
    with pytest.raises(MicrotomeError, match="no linear layer"):
        head_of(nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten()))
