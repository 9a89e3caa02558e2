"""Folder names, file names and npz keys: each one function of what the file holds."""

import datetime
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from microtome.gradients.normalise import normalisations

Kind = Literal["layers", "features"]
Mode = Literal["mean", "mean_abs"]

_PREFIX = {"features": "sae_features", "layers": "layer_activations"}
# What a scatter plot shows points of, in its file name.
_POINT = {"features": "feature", "layers": "activation"}


@dataclass(frozen=True)
class Entry:
    """One array of the documented results: a layer's values in one mode under one normalisation."""

    layer: int
    mode: Mode
    normalisation: str = "none"
    ending: str = ""

    @property
    def suffix(self) -> str:
        """What file names carry: ``_mean_abs``, ``_mean_norm_sum``, ..."""
        return f"_{self.mode}{self.ending}"

    @property
    def key(self) -> str:
        """The array's name in the npz file: ``layer_0_mean_abs``."""
        return f"layer_{self.layer}{self.suffix}"


def modes_of(aggregation_mode: str) -> tuple[Mode, ...]:
    """The modes that ``--aggregation_mode`` asks for."""
    if aggregation_mode == "both":
        return ("mean", "mean_abs")
    return ("mean",) if aggregation_mode == "mean" else ("mean_abs",)


def entries(layers: Iterable[int], aggregation_mode: str, normalize_gradients: str) -> list[Entry]:
    """Every array that a run writes, layer by layer."""
    return [
        Entry(layer, mode, normalisation, ending)
        for layer in layers
        for mode in modes_of(aggregation_mode)
        for normalisation, ending in normalisations(normalize_gradients)
    ]


def singular(aggregate_by: str) -> str:
    """``gradient`` of ``gradients``; other words as they are."""
    return "gradient" if aggregate_by == "gradients" else aggregate_by


def array_file(entry: Entry, aggregate_by: str = "gradients") -> str:
    """``layer_0_mean_abs_gradients.npy``."""
    return f"{entry.key}_{aggregate_by}.npy"


def histogram_file(entry: Entry, aggregate_by: str = "gradients") -> str:
    """``layer_0_mean_abs_gradient_hist``."""
    return f"{entry.key}_{singular(aggregate_by)}_hist"


def scatter_file(entry: Entry, kind: Kind) -> str:
    """``layer_0_mean_abs_feature_scatter`` or ``layer_0_mean_abs_activation_scatter``."""
    return f"{entry.key}_{_POINT[kind]}_scatter"


def combined_files(layer: int, aggregate_by: str = "gradients", ending: str = "") -> tuple[str, str]:
    """The two pictures of a layer in both modes: histogram and scatter."""
    start = f"layer_{layer}{ending}_{singular(aggregate_by)}"
    return f"{start}_hist_combined", f"{start}_scatter_combined"


def all_layers_files(entry: Entry, kind: Kind, aggregate_by: str = "gradients") -> tuple[str, str]:
    """The two pictures of all layers in one mode: histograms and scatters."""
    start = f"all_layers{entry.suffix}"
    return f"{start}_{singular(aggregate_by)}_histograms", f"{start}_{_POINT[kind]}_scatter"


def attribution_key(layer: int) -> str:
    """The npz key, and the file name without .npy, of a layer's signed attribution."""
    return f"layer_{layer}_attribution"


def folder_name(
    kind: Kind,
    model_name: str,
    num_samples: int,
    batch_size: int,
    layers: str,
    aggregate_by: str = "gradients",
    power: float = 1.0,
    now: datetime.datetime | None = None,
) -> str:
    """``sae_features_model_{model}_num_samples_{N}_batch_size_{B}_layers_{L}_{YYYYmmdd_HHMMSS}``.

    In the layer list ``-`` becomes ``to`` and ``,`` becomes ``_``. A quantity other than the gradient, or a
    power, is said before the time.
    """
    words = layers.replace(" ", "").replace("-", "to").replace(",", "_")
    special = aggregate_by != "gradients" or power != 1
    extra = f"_agg_{aggregate_by}_power_{power:g}" if special else ""
    time = (now or datetime.datetime.now()).strftime("%Y%m%d_%H%M%S")
    return (
        f"{_PREFIX[kind]}_model_{model_word(model_name)}_num_samples_{num_samples}"
        f"_batch_size_{batch_size}_layers_{words}{extra}_{time}"
    )


def free_folder(root: Path, *name: object, **more: object) -> Path:
    """A folder under ``root`` by ``folder_name`` that is not there yet: with a later second if need be."""
    now = datetime.datetime.now()
    while True:
        path = root / folder_name(*name, **more, now=now)  # pyright: ignore[reportArgumentType]
        if not path.exists():
            return path
        now += datetime.timedelta(seconds=1)


def model_word(model_name: str) -> str:
    """A hub name with ``/`` as ``_``; of a local path its last part, so that the name stays short."""
    path, name = Path(model_name), model_name
    if path.exists():
        name = path.parent.name if path.name == "model" and path.parent.name else path.name
    return re.sub(r"[\\/:\s]+", "_", name).strip("_")[:120] or "model"
