"""The analyses of a comparison by name: which room computes each, and which draws it."""

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from microtome.comparison.arms import Arms
from microtome.comparison.config import CompareConfig
from microtome.comparison.part import Part
from microtome.data.labelled_images import LabelledImages

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from microtome.comparison.activations import Activations

# Name -> (module with `analyse`, module with `draw`, the field of the settings that is its own).
ROOMS: dict[str, tuple[str, str, str]] = {
    "weights": ("weights", "weight_plots", "weights"),
    "activations": ("activation_statistics", "activation_plots", "activations"),
    "similarity": ("similarity", "activation_plots", "similarity"),
    "features": ("features", "feature_plots", "features"),
    "probes": ("probes", "probe_plots", "probes"),
    "adaptation": ("adaptation", "adaptation_plots", ""),
}


def analyse(
    name: str,
    arms: Arms,
    collected: Mapping[str, "list[Activations]"],
    images: LabelledImages,
    config: CompareConfig,
    progress: Callable[[str], None],
) -> Part:
    """Make one analysis."""
    module, _, field = ROOMS[name]
    room = importlib.import_module(f"microtome.comparison.{module}")
    return room.analyse(arms, dict(collected), images, getattr(config, field), progress, config.seed)


def draw(part: Part) -> "Iterator[tuple[str, Figure]]":
    """Every picture of a part: its path in the output folder, and the figure."""
    room = importlib.import_module(f"microtome.comparison.{ROOMS[part.name][1]}")
    yield from room.draw(part)
