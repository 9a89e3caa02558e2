"""Pictures of the original analysis, with its file names; steps are its indices of records."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from microtome.dynamics.analysis_plots import heatmap, jump_overview, period_overview, save

if TYPE_CHECKING:
    from microtome.dynamics.original.analyse import OriginalAnalysis


def draw(result: "OriginalAnalysis", folder: Path) -> list[Path]:
    """Write one heatmap a run, and the overviews of jumps and critical periods."""
    written = []
    for name, layers, values, entry in zip(
        result.names, result.layers, result.series, result.convergence, strict=True
    ):
        records = np.arange(values.shape[1])
        marks = entry["stabilization_points"]
        figure = heatmap(name, layers, records, values, marks, result.measure)
        figure.axes[0].set_xlabel("record (star: settled)")
        written.append(save(figure, folder / "step1_1" / f"{name}_heatmap.png", dpi=80))
    if result.jumps is not None:
        path = folder / "step1_2" / "jump_characterization_overview.png"
        written.append(save(jump_overview(result.jumps), path))
    path = folder / "step1_3" / "critical_periods_overview.png"
    return [*written, save(period_overview(result.periods), path)]
