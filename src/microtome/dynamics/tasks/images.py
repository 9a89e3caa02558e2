"""Small images: scikit-learn's digits, which every machine has, and MNIST from idx files of the user's."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from microtome.core.device import resolve_device
from microtome.core.errors import MicrotomeError
from microtome.core.seeds import generator, stream_seed
from microtome.data.images import digits
from microtome.dynamics.record_config import DigitsConfig, MNISTConfig
from microtome.dynamics.tasks.networks import ConvNet, FlatMLP, PatchTransformer
from microtome.dynamics.tasks.task import Task

Pixels = tuple[Tensor, Tensor]  # images [N, 1, side, side] in [0, 1], and classes
EVALUATED = 2000  # test images whose accuracy is told, at most
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def network(config: DigitsConfig | MNISTConfig) -> nn.Module:
    """The network that the configuration names."""
    torch.manual_seed(stream_seed(config.seed, "network"))
    large = isinstance(config, MNISTConfig)
    side = 28 if large else 8
    if config.architecture == "cnn":
        return ConvNet(side, 10, (32, 64) if large else (16, 32))
    if config.architecture == "transformer":
        return PatchTransformer(side, 7 if large else 2, 10)
    return FlatMLP((784, 512, 256, 10) if large else (64, 64, 32, 10))


def build(config: DigitsConfig | MNISTConfig) -> Task:
    """Cross entropy on random training images; the probe is the first test images."""
    device = resolve_device(config.device)
    model = network(config).to(device)
    train, test = (
        tuple(part.to(device) for part in half)
        for half in (mnist(config.folder) if isinstance(config, MNISTConfig) else small_digits())
    )
    draws = generator(config.seed, stream="data")

    def loss() -> Tensor:
        rows = torch.randint(len(train[0]), (config.batch_size,), generator=draws).to(device)
        return cross_entropy(model(train[0][rows]), train[1][rows])

    @torch.no_grad()
    def evaluate() -> dict[str, float]:
        logits, classes = model(test[0][:EVALUATED]), test[1][:EVALUATED]
        return {
            "test_accuracy": (logits.argmax(-1) == classes).float().mean().item(),
            "test_loss": cross_entropy(logits, classes).item(),
        }

    size = config.probe_size
    name = "mnist" if isinstance(config, MNISTConfig) else "digits"
    return Task(name, model, test[0][:size], test[1][:size], loss, evaluate, train=(train[0], train[1]))


def small_digits() -> tuple[Pixels, Pixels]:
    """The training and the test half of the 8x8 digits."""
    halves = []
    for half in digits():
        assert half.y is not None
        # The data come sorted by class nowhere, but a probe should not depend on that.
        order = torch.randperm(len(half.x), generator=generator(0, stream="order"))
        halves.append((half.x.reshape(-1, 1, 8, 8)[order], half.y[order]))
    return halves[0], halves[1]


def mnist(folder: Path) -> tuple[Pixels, Pixels]:
    """The training and the test half of idx files, plain or ``.gz``. Raises ``MicrotomeError``."""
    from microtome.data.image_sources.idx import read_idx

    halves = []
    for names in FILES.values():
        images, labels = (torch.as_tensor(read_idx(_found(folder, name))) for name in names)
        if images.dim() != 3 or images.shape[1:] != (28, 28):
            shape = list(images.shape)
            raise MicrotomeError(f"{folder}/{names[0]}: images of shape {shape}; MNIST's are 28x28")
        if len(labels) != len(images):
            raise MicrotomeError(f"{folder}/{names[1]}: {len(labels)} labels for {len(images)} images")
        halves.append((images.float().unsqueeze(1) / 255, labels.long()))
    return halves[0], halves[1]


def _found(folder: Path, name: str) -> Path:
    for candidate in (folder / name, folder / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    raise MicrotomeError(f"folder={str(folder)!r}: no {name}[.gz] in it; give the folder of the idx files")
