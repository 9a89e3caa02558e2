"""Symmetries found by themselves, and weight matching of a network with its own permuted copy."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from microtome.comparison.permutation_symmetry import OUTPUT, UnitAxis, find_symmetry
from microtome.comparison.weight_alignment import Aligner, alignment_problem, renumbered
from microtome.targets.few_shot_convnet import FewShotConvNet
from microtome.targets.same_different_nets import SameDifferentNet


def weights(module):
    return {name: p.detach() for name, p in module.named_parameters()}


def permuted_copy(module, x, seed=0):
    g = torch.Generator().manual_seed(seed)
    symmetry = find_symmetry(module, x)
    other = copy.deepcopy(module)
    moves = [torch.randperm(n, generator=g) for n in symmetry.sizes]
    other.load_state_dict(renumbered(module.state_dict(), symmetry, moves))
    return other, symmetry


def aligned(a, b, x):
    names = [name for name, p in a.named_parameters() if p.ndim > 1]
    problem = alignment_problem(
        find_symmetry(a, x), find_symmetry(b, x), [(n, n, n) for n in names], names[-1]
    )
    aligner = Aligner(problem, weights(a), weights(b))
    plain = aligner.cosines()
    permutations = aligner.align()
    return plain, aligner.cosines(), permutations, problem


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.block = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        x = F.relu(self.first(x))
        x = x + F.relu(self.norm(self.block(x)))
        return self.out(x.mean((2, 3)))


class Grouped(nn.Module):
    """A group norm of several channels a group: those cannot be renumbered freely."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3)
        self.norm = nn.GroupNorm(2, 8)
        self.second = nn.Conv2d(8, 6, 3)
        self.out = nn.Linear(6 * 16, 3)

    def forward(self, x):
        x = F.relu(self.norm(self.first(x)))
        return self.out(F.relu(self.second(x)).flatten(1))


NETWORKS = {
    "batch statistics": (lambda: FewShotConvNet(8, 3, 1, 14), (1, 14, 14)),
    "running statistics": (lambda: FewShotConvNet(8, 2, 1, 14, norm="batch"), (1, 14, 14)),
    "layer norms": (lambda: SameDifferentNet("conv2lr", image_size=16, widths=(32, 16, 16)), (3, 16, 16)),
    "fully connected": (lambda: SameDifferentNet("conv2", image_size=16, widths=(32, 16, 16)), (3, 16, 16)),
    "residual": (Residual, (1, 6, 6)),
    "perceptron": (
        lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(36, 20), nn.ReLU(), nn.Linear(20, 12), nn.GELU(), nn.Linear(12, 4)
        ),
        (1, 6, 6),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_permuted_copy_computes_the_same_and_is_found_again(name):
    make, shape = NETWORKS[name]
    network, x = make().eval(), torch.randn(4, *shape)
    other, symmetry = permuted_copy(network, x)
    assert symmetry.sizes, "nothing could be renumbered"
    torch.testing.assert_close(other(x), network(x), rtol=1e-4, atol=1e-5)
    plain, cosines, _, _ = aligned(network, other, x)
    assert min(plain) < 0.9
    assert min(cosines) == pytest.approx(1.0, abs=1e-6)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(2, 9), min_size=1, max_size=4), st.integers(0, 1000))
def test_any_perceptron_is_found_again(widths, seed):
    torch.manual_seed(seed)
    sizes = [5, *widths, 3]
    layers = [m for i in range(len(sizes) - 1) for m in (nn.Linear(sizes[i], sizes[i + 1]), nn.Tanh())][:-1]
    network, x = nn.Sequential(*layers).eval(), torch.randn(3, 5)
    other, symmetry = permuted_copy(network, x, seed)
    assert symmetry.sizes == tuple(widths)
    _, cosines, _, _ = aligned(network, other, x)
    assert min(cosines) == pytest.approx(1.0, abs=1e-6)


def test_flattening_makes_runs_of_columns():
    symmetry = find_symmetry(FewShotConvNet(8, 2, 1, 14).eval(), torch.randn(2, 1, 14, 14))
    assert symmetry.axes["classifier.weight"] == (None, UnitAxis(1, 1, 9))
    assert symmetry.fixed["classifier.weight", 0] == OUTPUT


def test_what_cannot_be_renumbered_is_said():
    symmetry = find_symmetry(Grouped().eval(), torch.randn(2, 1, 8, 8))
    assert symmetry.outputs_that_stay() == {"first.weight": "native_group_norm mixes or orders its units"}
    assert symmetry.sizes == (6,)


def test_alignment_is_at_least_as_good_as_the_start():
    x = torch.randn(2, 1, 14, 14)
    a, b = (FewShotConvNet(8, 2, 1, 14).eval() for _ in range(2))
    plain, cosines, permutations, problem = aligned(a, b, x)
    sizes = np.array([a.get_parameter(pair.a).numel() for pair in problem.pairs])
    likelihood = [-(sizes * np.log(1 - np.maximum(c, 0) ** 2)).sum() for c in (cosines, plain)]
    assert likelihood[0] > likelihood[1]
    # The cosines that come from kept gains are those of the weights themselves.
    moved = renumbered(b.state_dict(), find_symmetry(b, x), permutations)
    for pair, cosine in zip(problem.pairs, cosines, strict=True):
        own = a.get_parameter(pair.a).detach().flatten()
        direct = F.cosine_similarity(own, moved[pair.b].flatten(), dim=0)
        assert cosine == pytest.approx(float(direct), abs=1e-5)


@pytest.mark.parametrize("layer", range(3))
def test_the_others_are_found_again_when_one_layer_differs(layer):
    x = torch.randn(2, 1, 14, 14)
    network = FewShotConvNet(12, 3, 1, 14).eval()
    other, _ = permuted_copy(network, x)
    other.blocks[layer].conv.reset_parameters()
    _, cosines, _, _ = aligned(network, other, x)
    assert [round(c, 4) == 1 for c in cosines] == [i != layer for i in range(4)]


def test_networks_with_other_names_are_matched():
    a = SameDifferentNet("conv2", image_size=16, widths=(32, 16, 16)).eval()
    b = SameDifferentNet("conv2lr", image_size=16, widths=(32, 16, 16)).eval()
    x = torch.randn(2, 3, 16, 16)
    names = [
        ("conv1", "conv1"),
        ("conv2", "conv2"),
        ("fc1", "fc_layers.0"),
        ("fc2", "fc_layers.1"),
        ("fc3", "fc_layers.2"),
        ("classifier", "classifier"),
    ]
    moves = [torch.randperm(n) for n in find_symmetry(b, x).sizes]
    state = {k: v.clone() for k, v in b.state_dict().items()}
    for one, other in names:
        state[f"{other}.weight"] = a.state_dict()[f"{one}.weight"].clone()
    b.load_state_dict(renumbered(state, find_symmetry(b, x), moves))
    problem = alignment_problem(
        find_symmetry(a, x),
        find_symmetry(b, x),
        [(p, f"{p}.weight", f"{q}.weight") for p, q in names],
        "classifier",
    )
    aligner = Aligner(problem, weights(a), weights(b))
    aligner.align()
    assert min(aligner.cosines()) == pytest.approx(1.0, abs=1e-6)
    assert problem.stay == ()
