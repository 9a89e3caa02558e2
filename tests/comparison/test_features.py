"""Matching of features, and the analysis of features as a whole."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from microtome.comparison import feature_plots
from microtome.comparison.activations import collect
from microtome.comparison.arms import Arm, Arms, MatchedLayer
from microtome.comparison.feature_matching import (
    correlations,
    jackknife_error,
    kinds_of,
    leave_out_means,
    match_features,
    shares_of,
)
from microtome.comparison.feature_training import components_fvu
from microtome.comparison.features import analyse
from microtome.comparison.features_config import FeaturesConfig
from microtome.comparison.permutation_symmetry import find_symmetry
from microtome.comparison.weight_alignment import renumbered
from microtome.data.labelled_images import LabelledImages, Labels
from microtome.targets.few_shot_convnet import FewShotConvNet
from microtome.targets.image_network import ImageNetwork

SETTINGS = FeaturesConfig(max_rows=1500, max_features=48, steps=150, batch_size=128, floor_networks=2, k=4)
LAYERS = ("blocks.0.conv", "blocks.1.conv")


def network(seed):
    torch.manual_seed(seed)
    module = FewShotConvNet(16, 2, 1, 8, 10, norm="none").eval().requires_grad_(False)
    return ImageNetwork(module, "net", 1, 8)


def digits(n=150):
    data = load_digits()
    pixels = torch.from_numpy(data.images[:n] / 16 * 255).to(torch.uint8)[:, None]
    labels = {"digit": Labels(data.target[:n].astype(np.int64), tuple("0123456789"))}
    return LabelledImages(pixels, labels, tuple(map(str, range(n))), "digits")


def compare(a, b, folder, settings=SETTINGS):
    images = digits()
    floor = Arm("untrained", tuple(network(100 + i) for i in range(2)))
    layers = tuple(MatchedLayer(name, {"a": name, "b": name}) for name in LAYERS)
    arms = Arms((Arm("a", (a,)), Arm("b", (b,))), {"a": floor, "b": floor}, layers)
    activations = {
        arm.name: [
            collect(one, images, layers, "a", folder=folder / arm.name / str(i))
            for i, one in enumerate(arm.networks)
        ]
        for arm in (*arms.given, floor)
    }
    return analyse(arms, activations, images, settings, lambda _: None, 0)


def rows(part, statistic):
    return {row.layer: row for row in part.rows if row.statistic == statistic and row.arm == "a"}


def test_correlations_against_numpy():
    x, y = torch.rand(50, 3), torch.rand(50, 4)
    np.testing.assert_allclose(correlations(x, y), np.corrcoef(x.T, y.T)[:3, 3:], atol=1e-5)
    assert not correlations(torch.ones(9, 2), torch.rand(9, 2)).any()


def test_shuffled_features_are_matched_to_themselves():
    x = torch.rand(200, 12) * (torch.rand(200, 12) < 0.3)
    order = torch.randperm(12)
    found = match_features(x, x[:, order])
    assert found.mean == pytest.approx(1.0, abs=1e-5)
    np.testing.assert_array_equal(order.numpy()[found.columns], found.rows)
    dead = match_features(x, torch.cat([x[:, order], torch.zeros(200, 3)], 1))
    assert len(dead.rows) == 12 and dead.back[-1] == 0


def test_means_without_a_group_against_leaving_it_out():
    x, y, group = torch.rand(120, 5), torch.rand(120, 6), torch.arange(120) % 8
    match = match_features(x, y)
    direct = []
    for g in range(8):
        table = correlations(x[group != g], y[group != g])
        direct.append(float(table[match.rows, match.columns].mean()))
    found = leave_out_means(x, y, match, group, 8)
    np.testing.assert_allclose(found, direct, atol=1e-5)
    # Of a mean, the jackknife's error is the standard error.
    values = np.random.default_rng(0).normal(size=20)
    left = (values.sum() - values) / 19
    assert jackknife_error(left) == pytest.approx(values.std(ddof=1) / 20**0.5)


def test_kinds_of_features():
    best = np.array([0.8, 0.3, 0.8, 0.4, 0.9])
    ceiling = np.array([0.9, 0.9, 0.9, 0.3, 0.9])
    floor = np.array([0.2, 0.2, 0.85, 0.1, 0.2])
    alive = np.array([True, True, True, True, False])
    kinds = kinds_of(best, ceiling, floor, alive, 0.5, 0.1)
    assert kinds.tolist() == [0, 1, 2, 3, -1]
    assert shares_of(kinds) == {"shared": 0.25, "only": 0.25, "everyone's": 0.25, "unstable": 0.25}


@pytest.mark.parametrize("n", [100, 15])
def test_components_against_scikit_learn(n):
    fitted, held = torch.randn(n, 20) @ torch.randn(20, 20), torch.randn(40, 20)
    known = PCA(4).fit(fitted.numpy())
    left = held.numpy() - known.inverse_transform(known.transform(held.numpy()))
    share = np.square(left).sum() / np.square(held.numpy() - held.numpy().mean(0)).sum()
    assert components_fvu(fitted, held, 4) == pytest.approx(share, rel=1e-3)


def test_own_permuted_copy_shares_what_a_second_dictionary_finds(tmp_path):
    one = network(1)
    symmetry = find_symmetry(one.module, digits().inputs(slice(0, 2)))
    module = copy.deepcopy(one.module)
    module.load_state_dict(
        renumbered(module.state_dict(), symmetry, [torch.randperm(16) for _ in symmetry.sizes])
    )
    part = compare(one, replace(one, module=module), tmp_path)
    row = rows(part, "matched features' correlation")["blocks.1.conv"]
    assert row.null < row.floor < row.ceiling
    assert abs(row.value - row.ceiling) < 0.3 * (row.ceiling - row.floor) + 0.02
    for layer, found in rows(part, "explained variance").items():
        assert found.value > rows(part, "explained variance of as many components")[layer].value
    assert not [claim for claim in part.claims if claim.p < 0.05]


def test_untrained_networks_share_nothing_beyond_the_floor(tmp_path):
    part = compare(network(3), network(4), tmp_path)
    for row in rows(part, "matched features' correlation").values():
        assert row.value == pytest.approx(row.floor, abs=0.08)
    names = [name for name, figure in feature_plots.draw(part) if figure.axes]
    for layer in ("blocks_0_conv", "blocks_1_conv"):
        for arm in ("a", "b"):
            assert f"autoencoder_analysis/ae_weight_dist_{arm}_{layer}.png" in names
            assert f"autoencoder_analysis/ae_feature_sparsity_{arm}_{layer}.png" in names
            assert f"autoencoder_analysis/{arm}_ae_losses_{layer}.png" in names
            assert f"autoencoder_analysis/{arm}_ae_{layer}.pt" in part.tensors


def test_a_layer_that_never_changes_is_said(tmp_path):
    one = network(1)
    module = copy.deepcopy(one.module)
    module.blocks[1].conv.bias.fill_(-100.0)
    part = compare(replace(one, module=module), network(2), tmp_path)
    assert any("blocks.1.conv" in line and "same for every input" in line for line in part.remarks)
    assert "blocks.1.conv" not in rows(part, "explained variance")


def test_a_dictionary_no_better_than_components_is_said(tmp_path):
    part = compare(network(1), network(2), tmp_path, replace_steps(1))
    assert any("NO BETTER THAN" in line for line in part.remarks)


def replace_steps(steps):
    return SETTINGS.model_copy(update={"steps": steps})
