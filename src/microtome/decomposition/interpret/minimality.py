"""Causal importances under several minimality coefficients (SPD paper, figure 8)."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from microtome.core.errors import CannotLoad, MicrotomeError
from microtome.core.run_start import MARKER
from microtome.core.runs import RunFolder, list_runs, timestamp
from microtome.decomposition import plots
from microtome.decomposition.interpret.config import InterpretConfig
from microtome.decomposition.picture_data import crop_to_active
from microtome.decomposition.result import Decomposition, load
from microtome.decomposition.spd_config import SPDConfig

NAME = "varying_importance_minimality_coeff"
PROBE = 0.75


@dataclass(frozen=True)
class MinimalitySeries:
    """Causal importances ``[n_features, C]`` by site, for each coefficient in rising order."""

    coefficients: list[float]
    runs: list[str]
    importances: list[dict[str, np.ndarray]]

    def plot(self) -> Figure:
        """A row a coefficient, a column a site; components in the order nearest to the identity, cropped."""
        return plots.varying_importance_minimality(
            [
                {site: values[:, crop_to_active(values)] for site, values in one.items()}
                for one in self.importances
            ],
            self.coefficients,
        )


def runs_in(words: Sequence[str], runs_root: Path) -> list[str]:
    """The runs that the words name; a sweep, or a folder that is no run, stands for its decompositions."""
    found: list[str] = []
    for word in words:
        folder = Path(word)
        inside = list_runs(folder, "decompose") if _holds_runs(folder) else []
        found += [str(run.path) for run in inside] or [word]
    del runs_root
    return found


def _holds_runs(folder: Path) -> bool:
    if not (folder / MARKER).is_file():
        return folder.is_dir()
    return RunFolder.open(folder).kind == "sweep"


def minimality_series(decompositions: Sequence[Decomposition], instance: int = 0) -> MinimalitySeries:
    """Causal importances of every run on one-feature inputs (0.75), runs ordered by their coefficient.

    Raises ``MicrotomeError`` for runs without gates, of other targets, or that share a coefficient.
    """
    rows = []
    for d in decompositions:
        name = d.name
        coefficient = getattr(d.config, "importance_minimality_coeff", None)
        n = int(d.target.spec().get("n_features", 0))
        if coefficient is None or n == 0 or not isinstance(d.config, SPDConfig):
            raise MicrotomeError(f"{name}: has no importance_minimality_coeff; give SPD runs of a toy model")
        if instance >= d.n_instances:
            raise MicrotomeError(f"instance={instance}: {name} has {d.n_instances}; choose a smaller one")
        device = next(iter(d.parameters.values())).device
        found = d.causal_importances((PROBE * torch.eye(n, device=device)).expand(d.n_instances, n, n))
        assert found is not None
        rows.append((coefficient, name, {s: ci.lower[instance].cpu().numpy() for s, ci in found.items()}))
    rows.sort(key=lambda row: row[0])
    for one, other in itertools.pairwise(rows):
        if {s: v.shape[0] for s, v in one[2].items()} != {s: v.shape[0] for s, v in other[2].items()}:
            raise MicrotomeError(f"{other[1]}: another target than {one[1]}; compare runs of one target")
        if one[0] == other[0]:
            raise MicrotomeError(
                f"{one[1]} and {other[1]}: the same importance_minimality_coeff {one[0]:g}; give runs that"
                " differ in it (to interpret several runs, call the command once for each)"
            )
    return MinimalitySeries([row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows])


def compare(runs: Sequence[str], config: InterpretConfig, *, runs_root: str | Path = Path("runs")) -> Path:
    """Draw the runs below each other into a run folder of its own; returns the picture."""
    if not runs:
        raise CannotLoad("interpret: no runs to compare")
    loaded = [load(run, runs_root=Path(runs_root)) for run in runs]
    series = minimality_series(loaded, config.instance)
    path = config.output_dir or Path(runs_root) / f"interpret-minimality-{timestamp()}"
    folder = RunFolder.create(path, config, kind="interpret-minimality", reuse=config.output_dir is not None)
    arrays = {
        f"{coefficient:g}/{site}": values
        for coefficient, one in zip(series.coefficients, series.importances, strict=True)
        for site, values in one.items()
    }
    folder.save_arrays(NAME, arrays)
    file = folder.save_figure(NAME, series.plot(), dpi=config.dpi)
    folder.finish({"runs": series.runs, "importance_minimality_coeff": series.coefficients})
    return file
