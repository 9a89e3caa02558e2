"""Activations of every matched layer in one pass over the images, pooled and written to disk as they come."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from microtome.comparison.arms import MatchedLayer
from microtome.comparison.batch_norm import Mode, frozen
from microtome.comparison.collecting import LayerStatistics, Sheet, listen_to_all
from microtome.comparison.image_order import image_keys, places
from microtome.core.errors import bad_value
from microtome.data.labelled_images import LabelledImages
from microtome.targets.image_network import ImageNetwork

Site = Literal["pre", "post"]
FORMAT = 1  # of the files; another number and they are made again
POSITION_ROWS = 20_000  # channel vectors kept of a layer with positions


@dataclass(frozen=True)
class Positions:
    """Channel vectors at sampled positions: ``rows[i]`` is of image ``images[i]``.

    ``draw`` numbers the positions of one image; equal (image, draw) is the same place in every network.
    """

    rows: Float[Tensor, "m channels"]
    images: Int[Tensor, " m"]
    draw: Int[Tensor, " m"]


@dataclass(frozen=True)
class Activations:
    """What one network gives for all images. ``layers`` are labels.

    Sites are before ("pre") and after the nonlinearity ("post"). A layer without a nonlinearity of its own
    has the same values at both.
    """

    arm: str
    n: int
    layers: tuple[str, ...]
    folder: Path

    @cached_property
    def _contents(self) -> dict[str, Any]:
        return json.loads((self.folder / "contents.json").read_text())

    def _stem(self, layer: str, site: str) -> Path:
        if layer not in self.layers:
            raise bad_value("layer", layer, "no activations of it", f"choose of {', '.join(self.layers)}")
        if site == "post" and not self.has_post(layer):
            site = "pre"
        return self.folder / f"{self.layers.index(layer):03d}-{site}"

    def _load(self, layer: str, site: str, what: str) -> np.ndarray:
        return np.load(f"{self._stem(layer, site)}-{what}.npy", mmap_mode="r", allow_pickle=False)

    def rows(self, layer: str, site: Site = "post") -> Float[np.ndarray, "n d"]:
        """Pooled activations, a read-only memory map: channels times at most ``pool x pool`` positions."""
        return self._load(layer, site, "rows")

    def channels(self, layer: str, site: Site = "post") -> Float[np.ndarray, "n channels"]:
        """Mean over positions of every channel."""
        return self._load(layer, site, "channels")

    def has_post(self, layer: str) -> bool:
        """Whether a nonlinearity follows the layer."""
        return self._contents["layers"][self.layers.index(layer)]["post"]

    def positions_per_image(self, layer: str) -> int:
        """How many positions were sampled of every image (1 for a layer without positions)."""
        return self._load(layer, "pre", "positions").shape[1]

    def positions(
        self,
        layer: str,
        site: Site = "post",
        max_rows: int | None = None,
        generator: torch.Generator | None = None,
        per_image: int | None = None,
    ) -> Positions:
        """Channel vectors at sampled positions, at most ``max_rows``, chosen by ``generator``.

        Generators in the same state choose the same images and positions in every network that has as many
        ``per_image`` (default: all that were sampled).
        """
        stored = self._load(layer, site, "positions")
        each = min(per_image or stored.shape[1], stored.shape[1])
        total = self.n * each
        if max_rows is None or max_rows >= total:
            chosen = torch.arange(total)
        else:
            chosen = torch.randperm(total, generator=generator)[:max_rows].sort().values
        images, draw = chosen // each, chosen % each
        return Positions(torch.from_numpy(stored[images.numpy(), draw.numpy()]), images, draw)

    def statistics(self, layer: str, site: Site = "post") -> LayerStatistics:
        """Statistics of the unpooled activations."""
        with np.load(f"{self._stem(layer, site)}-statistics.npz", allow_pickle=False) as arrays:
            return LayerStatistics.from_arrays(dict(arrays))


def collect(
    network: ImageNetwork,
    images: LabelledImages,
    layers: Sequence[MatchedLayer],
    arm: str,
    *,
    batch_size: int = 32,
    pool: int = 4,
    bn: Mode = "frozen",
    folder: Path,
    device: str = "cpu",
    progress: Callable[[str], None] | None = None,
    names: Mapping[str, str] | None = None,
) -> Activations:
    """Run the network once over all images and keep every layer before and after its nonlinearity.

    Maps are averaged over ``pool x pool`` equal cells. Found again in ``folder`` by the digests of weights,
    images and settings. ``names`` maps labels to module names; without it they are those of ``arm``, and for
    an arm called "untrained X" those of X (for "untrained" those of the first arm).
    """
    names = names or {layer.label: _name_in(layer, arm) for layer in layers}
    labels = tuple(layer.label for layer in layers)
    place = folder / _key(network, images, [names[label] for label in labels], pool, bn, batch_size)
    if network.digest and images.digest and (place / "contents.json").is_file():
        return Activations(arm, len(images), labels, place)
    if progress is not None:
        progress(f"activations of {network.name or arm}: {len(images)} images, {len(labels)} layers")
    folder.mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(prefix=".making-", dir=folder))
    try:
        ready = frozen(network, images, bn, batch_size)
        _write(ready, images, [names[label] for label in labels], making, batch_size, pool, device)
        shutil.rmtree(place, ignore_errors=True)
        making.replace(place)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return Activations(arm, len(images), labels, place)


def _name_in(layer: MatchedLayer, arm: str) -> str:
    known = layer.names
    if arm in known:
        return known[arm]
    return known.get(arm.removeprefix("untrained").strip(), next(iter(known.values())))


def _key(
    network: ImageNetwork, images: LabelledImages, names: Sequence[str], pool: int, bn: str, batch_size: int
) -> str:
    """Name of the folder: whatever the numbers depend on. Batches matter only where a norm looks at them."""
    if not (network.digest and images.digest):
        return f"unnamed-{os.urandom(8).hex()}"
    settings = [FORMAT, network.digest, images.digest, list(names), pool, bn, network.mean, network.std]
    if bn != "frozen":
        settings.append(batch_size)
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:24]


def _write(
    network: ImageNetwork,
    images: LabelledImages,
    names: Sequence[str],
    folder: Path,
    batch_size: int,
    pool: int,
    device: str,
) -> None:
    module = network.module.to(device)
    n = len(images)
    draws = places(image_keys(images), max(1, -(-POSITION_ROWS // n)))
    sheets: dict[tuple[str, str], Sheet] = {}
    with torch.no_grad(), listen_to_all(module, names, folder, sheets, pool, draws):
        for start in range(0, n, batch_size):
            rows = slice(start, min(n, start + batch_size))
            x = images.inputs(rows, mean=network.mean, std=network.std).to(device)
            # Maps with channels last: the same network runs up to twice as fast on a CPU.
            module(x.to(memory_format=torch.channels_last) if x.ndim == 4 else x)
            for sheet in sheets.values():
                sheet.next_batch()
    for sheet in sheets.values():
        sheet.finish()
    contents = [{"name": name, "post": (name, "post") in sheets} for name in names]
    silent = [name for name in names if (name, "pre") not in sheets]
    if silent:
        raise bad_value("layers", ", ".join(silent), "did not run", "choose layers that the network calls")
    (folder / "contents.json").write_text(json.dumps({"n": n, "pool": pool, "layers": contents}))
