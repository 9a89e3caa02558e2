"""A recorded training run: its measures over time, its scalars and the states that were kept."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pandas import DataFrame
    from torch import Tensor, nn


class DynamicsRun:
    """One training run. ``open_run`` reads it from a recording or from an original measurement file.

    ``values`` maps a measure to its array ``[steps, layers]``, NaN where a layer was not measured.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        steps: np.ndarray,
        layers: list[str],
        values: dict[str, np.ndarray],
        scalars: "DataFrame",
        facts: dict[str, Any],
    ) -> None:
        self.name, self.path, self.layers, self.facts = name, path, layers, facts
        self.values = values
        self._steps, self._scalars = steps, scalars

    @property
    def measures(self) -> list[str]:
        """The names of what was measured."""
        return list(self.values)

    def steps(self) -> np.ndarray:
        """The training steps that were measured, ascending ``[n]``."""
        return self._steps

    def series(self, layer: str, measure: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps ``[n]`` and values ``[n]`` of one measure of one layer."""
        return self._steps, self.values[measure][:, self.layers.index(layer)]

    def table(self) -> "DataFrame":
        """Every measure: a row for a step and a layer, a column for a measure."""
        raise NotImplementedError

    def scalars(self) -> "DataFrame":
        """Loss and whatever else was logged: a row for a step."""
        return self._scalars

    def checkpoint_steps(self) -> list[int]:
        """The steps whose model state was kept, ascending."""
        raise NotImplementedError

    def checkpoint(self, step: int) -> "dict[str, Tensor]":
        """The model state kept nearest to ``step``."""
        raise NotImplementedError

    def capture(self, step: int) -> "dict[str, Tensor]":
        """The activations on the probe kept nearest to ``step``, by layer."""
        raise NotImplementedError

    def probe(self) -> "dict[str, Tensor]":
        """The fixed inputs that were measured on, and their labels where there are any."""
        raise NotImplementedError

    def model(self) -> "nn.Module | None":
        """The network without its weights, for the built-in tasks; None for other runs."""
        raise NotImplementedError


def open_run(path: str | Path) -> DynamicsRun:
    """Read a recorded folder, an original ``.json`` or ``.json.gz`` file, or ``latest``."""
    raise NotImplementedError


def open_runs(folder: str | Path) -> list[DynamicsRun]:
    """Every run in a folder, sorted by name."""
    raise NotImplementedError
