"""The analysis of weights as a whole, on networks whose answer is known."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from microtome.comparison import weight_plots
from microtome.comparison.arms import Arm, Arms, MatchedLayer
from microtome.comparison.barrier import barriers
from microtome.comparison.permutation_symmetry import find_symmetry
from microtome.comparison.weight_alignment import renumbered
from microtome.comparison.weight_measures import change_from
from microtome.comparison.weights import analyse
from microtome.comparison.weights_config import WeightsConfig
from microtome.data.labelled_images import LabelledImages, Labels
from microtome.targets.few_shot_convnet import FewShotConvNet
from microtome.targets.image_network import ImageNetwork

LAYERS = ("blocks.0.conv", "blocks.1.conv", "blocks.2.conv", "classifier")
SETTINGS = WeightsConfig(barrier_images=32)


def network(seed):
    torch.manual_seed(seed)
    return ImageNetwork(FewShotConvNet(12, 3, 1, 14, 4).eval().requires_grad_(False), "net", 1, 14)


def images(n=40):
    g = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (n, 1, 14, 14), generator=g, dtype=torch.uint8)
    return LabelledImages(
        pixels, {"class": Labels(np.arange(n) % 4, tuple("abcd"))}, tuple(map(str, range(n))), "noise"
    )


def compare(a, b, initial=()):
    floor = Arm("untrained", tuple(network(100 + i) for i in range(4)))
    layers = tuple(MatchedLayer(name, {"a": name, "b": name}) for name in LAYERS)
    given = (Arm("a", tuple(a), initial), Arm("b", tuple(b), ()))
    arms = Arms(given, {"a": floor, "b": floor}, layers)
    return analyse(arms, {}, images(), SETTINGS, lambda _: None, 0)


def rows(part, statistic):
    return {row.layer: row for row in part.rows if row.statistic == statistic and row.arm == "a"}


def test_permuted_copy_has_aligned_cosine_one_and_no_barrier():
    one = network(1)
    x = images().inputs(slice(0, 2))
    symmetry = find_symmetry(one.module, x)
    module = copy.deepcopy(one.module)
    module.load_state_dict(
        renumbered(module.state_dict(), symmetry, [torch.randperm(n) for n in symmetry.sizes])
    )
    part = compare([one], [replace(one, module=module)])
    for layer in LAYERS:
        assert rows(part, "aligned cosine")[layer].value == pytest.approx(1.0, abs=1e-6)
        assert rows(part, "overlap of principal directions")[layer].value == pytest.approx(1.0, abs=1e-6)
        assert rows(part, "cosine")[layer].value < 0.9
    assert rows(part, "aligned barrier")[""].value == pytest.approx(0.0, abs=1e-5)
    assert not [claim for claim in part.claims if claim.p < 0.05]


def test_the_layer_that_was_initialised_again_is_named():
    one = network(1)
    module = copy.deepcopy(one.module)
    torch.manual_seed(9)
    module.blocks[1].conv.reset_parameters()
    part = compare([one], [replace(one, module=module)])
    standing = {claim.layer: claim for claim in part.claims if claim.p < 0.05 / len(part.claims)}
    assert list(standing) == ["blocks.1.conv"]
    assert standing["blocks.1.conv"].effect == pytest.approx(-1.0, abs=0.25)


def test_untrained_networks_have_in_common_what_chance_gives():
    claims, above = [], []
    for seed in range(6):
        part = compare([network(2 * seed + 200)], [network(2 * seed + 201)])
        claims += [claim.p for claim in part.claims]
        above += [row.p for row in rows(part, "aligned cosine").values()]
    assert np.mean(np.array(claims) < 0.05) < 0.15
    assert np.mean(np.array(above) < 0.05) < 0.25


def test_change_from_the_initialisation():
    w = torch.randn(4, 5)
    assert change_from(w, w) == (0.0, 0.0)
    angle, change = change_from(w, 3 * w)
    assert (angle, change) == (pytest.approx(0.0, abs=1e-5), pytest.approx(2.0))
    assert change_from(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0]))[0] == pytest.approx(90.0)
    part = compare([network(1)], [network(2)], (network(3),))
    found = rows(part, "angle to initialisation")
    assert 60 < found["blocks.1.conv"].value < 120 and 60 < found["blocks.1.conv"].floor < 120
    assert any("b: its own initialisation is not known" in line for line in part.remarks)


def test_layers_of_unequal_shape_are_said():
    torch.manual_seed(5)
    other = ImageNetwork(FewShotConvNet(12, 3, 1, 14, 7).eval().requires_grad_(False), "net", 1, 14)
    part = compare([network(1)], [other])
    assert "classifier" not in rows(part, "cosine") and "blocks.0.conv" in rows(part, "cosine")
    assert any("unequal shape" in line and "classifier" in line for line in part.remarks)
    assert any("no path" in line for line in part.remarks)


def test_barrier_is_that_of_the_losses_on_the_way():
    """Against the loss of interpolated networks evaluated one by one, batch norms on the batch itself."""
    a, b = network(1), network(2)
    data = images()
    index = np.arange(32)
    found = barriers(a, a.module.state_dict(), [b.module.state_dict()], data, index, 3)[0]
    losses = []
    for share in found.points:
        middle = copy.deepcopy(a.module)
        for p, q in zip(middle.parameters(), b.module.parameters(), strict=True):
            p.lerp_(q, float(share))
        target = torch.as_tensor(data.labels["class"].values[index])
        losses.append(float(torch.nn.functional.cross_entropy(middle(data.inputs(index)), target)))
    line = np.linspace(losses[0], losses[-1], len(losses))
    np.testing.assert_allclose(found.rise, np.array(losses) - line, atol=1e-5)
    assert found.height == pytest.approx(max(found.rise[1:-1]))


def test_every_documented_picture_is_drawn():
    part = compare([network(1), network(2)], [network(3)])
    names = [name for name, figure in weight_plots.draw(part) if figure.axes]
    for layer in LAYERS:
        kind = "fc" if layer == "classifier" else "conv"
        flat = layer.replace(".", "_")
        assert f"weight_analysis/pca_comparison_{kind}_{flat}.png" in names
        assert f"weight_analysis/weight_stats_{flat}_weight.png" in names
    assert "weight_analysis/interpolation.png" in names
    assert rows(part, "aligned cosine")["classifier"].ceiling is not None
