"""The six networks of the same-different studies."""

import re

import pytest
import torch
import torch.nn.functional as F

from microtome.core.errors import MicrotomeError
from microtome.targets.checkpoints import load_weights
from microtome.targets.few_shot_convnet import FewShotConvNet, infer_few_shot
from microtome.targets.same_different_nets import PLANS, SameDifferentNet, infer_same_different, map_side

SMALL = {"image_size": 32, "widths": [8, 8, 8]}


def plainly(state, x, padding, pool, listed):
    """The forward pass written out with functions, from the tensors of a checkpoint alone."""
    i = 1
    while f"conv{i}.weight" in state:
        x = F.conv2d(x, state[f"conv{i}.weight"], state[f"conv{i}.bias"], padding=padding[i - 1])
        mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
        x = (x - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
        x = x * state[f"bn{i}.weight"][:, None, None] + state[f"bn{i}.bias"][:, None, None]
        x = F.max_pool2d(x.relu(), *pool)
        i += 1
    x = x.reshape(len(x), -1)
    for j in range(3):
        name = f"fc_layers.{j}" if listed else f"fc{j + 1}"
        x = x @ state[f"{name}.weight"].T + state[f"{name}.bias"]
        if listed:
            x = F.layer_norm(x, x.shape[1:], state[f"layer_norms.{j}.weight"], state[f"layer_norms.{j}.bias"])
        x = x.relu()
    x = x @ state["classifier.weight"].T + state["classifier.bias"]
    return torch.softmax(x / state["temperature"].abs(), 1) if listed else x


@pytest.mark.parametrize(
    ("name", "padding", "pool", "listed"),
    [
        ("conv2", [1, 1], (3, 2, 1), False),
        ("conv4", [1] * 4, (3, 2, 1), False),
        ("conv6", [2, 1, 1, 1, 1, 1], (3, 2, 1), False),
        ("conv2lr", [1, 1], (3, 2, 1), True),
        ("conv4lr", [1] * 4, (2, 2, 0), True),
    ],
)
def test_forward_pass_is_that_of_plain_functions(name, padding, pool, listed):
    torch.manual_seed(0)
    network = SameDifferentNet(name, **SMALL).eval()
    with torch.no_grad():
        for value in network.parameters():
            value.add_(torch.randn_like(value) * 0.1)
    x = torch.randn(3, 3, 32, 32)
    expected = plainly(network.state_dict(), x, padding, pool, listed)
    torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-4)


def test_shapes_at_the_original_size():
    # The published sizes: 13,068 inputs to the first layer, maps of 129 and 66 pixels.
    network = SameDifferentNet("conv2").eval()
    assert network.fc1.in_features == 13_068
    assert sum(value.numel() for value in network.parameters()) == 15_484_320
    x = torch.zeros(1, 3, 128, 128)
    first = network.conv1(x)
    assert first.shape == (1, 6, 129, 129)
    assert network.conv2(network.pool1(first)).shape == (1, 12, 66, 66)
    assert [map_side(PLANS[name], 128) for name in PLANS] == [33, 9, 3, 33, 8, 2]


def test_names_of_weights_are_the_originals():
    names = set(SameDifferentNet("conv2lr", **SMALL).state_dict())
    expected = {f"{kind}{i}.{part}" for kind in ("conv", "bn") for i in (1, 2) for part in ("weight", "bias")}
    expected |= {
        f"{kind}.{i}.{part}"
        for kind in ("fc_layers", "layer_norms")
        for i in range(3)
        for part in ("weight", "bias")
    }
    expected |= {"classifier.weight", "classifier.bias", "temperature", "lr_classifier"}
    expected |= {"lr_conv.0", "lr_conv.1", "lr_fc.0", "lr_fc.1", "lr_fc.2"}
    assert names == expected


@pytest.mark.parametrize("name", list(PLANS))
@pytest.mark.parametrize("batch_statistics", [True, False])
def test_architecture_is_read_off_a_checkpoint(name, batch_statistics):
    size = 64 if "6" in name else 32
    made = SameDifferentNet(
        name, image_size=size, widths=[8, 7, 6], n_classes=3, batch_statistics=batch_statistics
    )
    found = infer_same_different(made.state_dict())
    assert found is not None
    assert (found["name"], found["widths"], found["n_classes"]) == (name, [8, 7, 6], 3)
    again = SameDifferentNet(**{key: value for key, value in found.items() if key != "kind"})
    again.load_state_dict(made.state_dict())
    x = torch.rand(2, 3, size, size)
    torch.testing.assert_close(again.eval()(x), made.eval()(x))


def test_full_size_checkpoints_are_for_128_pixels():
    state = SameDifferentNet("conv4", widths=[4, 4, 4]).state_dict()
    assert (infer_same_different(state) or {})["image_size"] == 128


def test_without_learned_rates_the_output_is_logits():
    # As in later versions of the originals, which keep the temperature in the file.
    made = SameDifferentNet("conv2lr", learned_rates=False, **SMALL)
    found = infer_same_different(made.state_dict())
    assert found is not None
    assert (found["learned_rates"], found["temperature"]) == (False, True)
    with torch.no_grad():
        made.classifier.bias.fill_(7.0)
        out = made.eval()(torch.rand(2, 3, 32, 32))
    assert float(out.sum(1).min()) > 10


def test_other_checkpoints_are_none_of_them():
    state = SameDifferentNet("conv2", **SMALL).state_dict()
    assert infer_same_different({"fc1.weight": torch.zeros(2, 2)}) is None
    assert infer_same_different({"conv1.weight": torch.zeros(6, 3, 2, 2)}) is None
    assert infer_same_different(state | {f"conv{i}.weight": torch.zeros(5, 3, 3, 3) for i in (1, 2)}) is None
    assert infer_few_shot(state) is None


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("conv2", "conv2.weight"),
        ("conv2", "fc2.weight"),
        ("conv2", "fc3.weight"),
        ("conv2", "bn1.bias"),
        ("conv6lr", "conv1.weight"),
        ("conv6lr", "fc_layers.0.weight"),
        ("conv6lr", "classifier.weight"),
        ("conv6lr", "temperature"),
    ],
)
def test_a_single_missing_weight_is_listed(name, missing):
    made = SameDifferentNet(name)
    state = {key: value for key, value in made.state_dict().items() if key != missing}
    found = infer_same_different(state | {"more": torch.zeros(1)})
    assert found is not None
    again = SameDifferentNet(**{key: value for key, value in found.items() if key != "kind"})
    with pytest.raises(MicrotomeError, match=f"misses {re.escape(missing)}; adds more;"):
        load_weights(again, state | {"more": torch.zeros(1)}, "a.pt")


def test_wrong_arguments_are_told():
    with pytest.raises(MicrotomeError, match="conv2, conv4"):
        SameDifferentNet("conv3")
    with pytest.raises(MicrotomeError, match="too small"):
        SameDifferentNet("conv6lr", image_size=8)


# -- the few-shot network


@pytest.mark.parametrize("norm", ["batch_statistics", "batch", "none"])
@pytest.mark.parametrize(("size", "blocks"), [(28, 4), (8, 4), (16, 2)])
def test_few_shot_network_is_read_off_a_checkpoint(norm, size, blocks):
    made = FewShotConvNet(6, blocks, 1, size, 3, norm).eval()
    x = torch.rand(4, 1, size, size)
    assert made(x).shape == (4, 3)
    assert made.features(x).shape == (4, made.n_features)
    found = infer_few_shot(made.state_dict())
    assert found is not None
    again = FewShotConvNet(**{key: value for key, value in found.items() if key != "kind"})
    again.load_state_dict(made.state_dict())
    torch.testing.assert_close(again.eval()(x), made(x))


def test_batch_statistics_make_outputs_depend_on_the_batch():
    x = torch.rand(6, 1, 28, 28)
    by_batch, running = FewShotConvNet(4).eval(), FewShotConvNet(4, norm="batch").eval()
    assert not torch.allclose(by_batch(x)[:2], by_batch(x[:2]), atol=1e-4)
    torch.testing.assert_close(running(x)[:2], running(x[:2]))


def test_few_shot_network_refuses_wrong_sizes():
    with pytest.raises(MicrotomeError, match="blocks=0"):
        FewShotConvNet(blocks=0)
    with pytest.raises(MicrotomeError, match="batch_statistics"):
        FewShotConvNet(norm="layer")
