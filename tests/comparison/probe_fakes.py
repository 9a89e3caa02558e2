"""Arms whose activations are given as arrays, written as a collection would."""

import json

import numpy as np
import torch

from microtome.comparison.activations import Activations
from microtome.comparison.arms import Arm, Arms, MatchedLayer
from microtome.data.labelled_images import LabelledImages, Labels
from microtome.targets.image_network import ImageNetwork


def images_of(**labels):
    """Random small images with these labels (arrays of class numbers; negative is unlabelled)."""
    n = len(next(iter(labels.values())))
    pixels = np.random.default_rng(7).integers(0, 255, (n, 1, 6, 6), dtype=np.uint8)
    named = {
        name: Labels(values.astype(np.int64), tuple(f"{name} {k}" for k in range(values.max() + 1)))
        for name, values in labels.items()
    }
    return LabelledImages(torch.from_numpy(pixels), named, tuple(map(str, range(n))), "made up")


def rearrange(images, order):
    """The same images in another order."""
    return LabelledImages(
        images.pixels[torch.from_numpy(order)],
        {name: Labels(one.values[order], one.names) for name, one in images.labels.items()},
        tuple(images.names[i] for i in order),
        images.source,
    )


def activations_of(folder, arm, layers):
    folder.mkdir(parents=True)
    n = len(next(iter(layers.values())))
    for i, rows in enumerate(layers.values()):
        np.save(folder / f"{i:03d}-pre-rows.npy", rows.astype(np.float32))
        np.save(folder / f"{i:03d}-pre-channels.npy", rows.astype(np.float32))
    contents = [{"name": name, "post": False} for name in layers]
    (folder / "contents.json").write_text(json.dumps({"n": n, "pool": 1, "layers": contents}))
    return Activations(arm, n, tuple(layers), folder)


def compared(folder, given, floors):
    """``given`` and ``floors`` map names to one dictionary of layers a network; one floor serves all arms."""
    nets = {**given, "untrained": floors}

    def arm(name):
        return Arm(name, tuple(ImageNetwork(torch.nn.Identity(), name) for _ in nets[name]))

    floor = arm("untrained")
    layers = tuple(MatchedLayer(label, dict.fromkeys(given, label)) for label in floors[0])
    arms = Arms(tuple(arm(name) for name in given), dict.fromkeys(given, floor), layers)
    activations = {
        name: [activations_of(folder / name / str(i), name, one) for i, one in enumerate(several)]
        for name, several in nets.items()
    }
    return arms, activations
