"""Small networks, their activations and whole comparisons of them, for tests of several rooms."""

import copy
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from microtome.comparison import activation_statistics, similarity
from microtome.comparison.activation_config import SimilarityConfig
from microtome.comparison.activations import Activations, collect
from microtome.comparison.arms import Arm, Arms, MatchedLayer
from microtome.comparison.layers import match_layers, trace_layers
from microtome.comparison.part import Part
from microtome.comparison.statistics import Judged, judge
from microtome.data.labelled_images import LabelledImages, Labels
from microtome.targets.image_network import ImageNetwork


class SmallNet(nn.Module):
    """Two convolutions with norms that look at the batch, and two linear layers, on 8 x 8 images."""

    def __init__(self, channels: int = 8):
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(channels, track_running_stats=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(channels, track_running_stats=False)
        self.relu = nn.ReLU()
        self.fc1 = nn.Linear(4 * channels, 32)
        self.fc2 = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.max_pool2d(self.relu(self.bn1(self.conv1(x))), 2)
        x = torch.max_pool2d(torch.relu(self.bn2(self.conv2(x))), 2)
        return self.fc2(nn.functional.relu(self.fc1(x.flatten(1))))


@cache
def digit_images(n: int = 120, start: int = 0) -> LabelledImages:
    """The first handwritten digits of scikit-learn."""
    data = load_digits()
    rows = slice(start, start + n)
    pixels = torch.from_numpy(data.images[rows] / 16 * 255).to(torch.uint8)[:, None]
    labels = {"digit": Labels(data.target[rows], tuple(map(str, range(10))))}
    return LabelledImages(pixels, labels, tuple(map(str, range(n))), "digits", f"digits-{start}-{n}")


def network(seed: int, build: Callable[[], nn.Module] = SmallNet, digest: str | None = None) -> ImageNetwork:
    """An untrained network."""
    torch.manual_seed(seed)
    module = build().eval().requires_grad_(False)
    digest = f"{build.__name__}-{seed}" if digest is None else digest
    return ImageNetwork(module, f"net{seed}", architecture={"class": build.__name__}, digest=digest)


@cache
def trained(seed: int, steps: int = 150) -> ImageNetwork:
    """A network trained on 1,000 other digits."""
    images = digit_images(1000, 700)
    x, y = images.inputs(), torch.from_numpy(images.labels["digit"].values)
    torch.manual_seed(seed)
    module = SmallNet()
    optimiser = torch.optim.Adam(module.parameters(), 1e-2)
    draws = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randint(len(x), (64,), generator=draws)
        optimiser.zero_grad()
        nn.functional.cross_entropy(module(x[rows]), y[rows]).backward()
        optimiser.step()
    module.eval().requires_grad_(False)
    return ImageNetwork(
        module, f"trained{seed}", architecture={"class": "SmallNet"}, digest=f"trained-{seed}"
    )


def with_fresh_layer(net: ImageNetwork, layer: str, seed: int) -> ImageNetwork:
    """A copy with one layer as it would be initialised."""
    module = copy.deepcopy(net.module)
    torch.manual_seed(seed)
    part = module.get_submodule(layer)
    part.reset_parameters()
    return ImageNetwork(
        module.eval().requires_grad_(False), f"{net.name}, fresh {layer}", architecture=net.architecture,
        digest=f"{net.digest}-{layer}-{seed}",
    )  # fmt: skip


def layers_of(net: ImageNetwork, arms: Sequence[str] = ("a", "b")) -> tuple[MatchedLayer, ...]:
    """The layers of one architecture in all arms."""
    trace = trace_layers(net, digit_images().inputs(slice(0, 4)))
    return match_layers(dict.fromkeys(arms, trace)).layers


def compare(
    a: Sequence[ImageNetwork],
    b: Sequence[ImageNetwork],
    floors: Sequence[ImageNetwork],
    folder: Path,
    images: LabelledImages | None = None,
    batch_size: int = 64,
    quick: bool = False,
) -> tuple[Arms, dict[str, list[Activations]], list[Part]]:
    """Both analyses of two arms; a quick one spends little on what no claim is made of."""
    images = images or digit_images()
    floor = Arm("untrained", tuple(floors))
    arms = Arms((Arm("a", tuple(a)), Arm("b", tuple(b))), {"a": floor, "b": floor}, layers_of(a[0]))
    activations = {
        arm.name: [
            collect(net, images, arms.layers, arm.name, batch_size=batch_size, folder=folder)
            for net in arm.networks
        ]
        for arm in (*arms.given, floor)
    }
    settings = SimilarityConfig(second_opinion_images=8, permutations=20) if quick else SimilarityConfig()
    parts = [
        activation_statistics.analyse(arms, activations, images),
        similarity.analyse(arms, activations, images, settings),
    ]
    return arms, activations, parts


def verdicts(parts: Sequence[Part]) -> list[Judged]:
    """All claims of a report, judged together."""
    return judge([claim for part in parts for claim in part.claims])


def shuffled(images: LabelledImages, seed: int) -> LabelledImages:
    """The same images in another order."""
    rows = np.random.default_rng(seed).permutation(len(images))
    return LabelledImages(
        images.pixels[torch.from_numpy(rows)],
        {what: Labels(each.values[rows], each.names) for what, each in images.labels.items()},
        tuple(images.names[i] for i in rows),
        images.source,
        f"{images.digest}-shuffled-{seed}",
    )
