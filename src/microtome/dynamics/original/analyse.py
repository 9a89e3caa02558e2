"""A folder of original run files analysed as the original tools did, into files of the same names."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from microtome.core.atomic import atomic_path, write_text
from microtome.core.errors import CannotLoad, bad_value
from microtome.dynamics.formats import MEASURES, OriginalFile, original_files, read_original
from microtome.dynamics.original import convergence, critical_periods, jumps

FEWEST_RECORDS = 3


@dataclass(frozen=True)
class OriginalAnalysis:
    """The three analyses of a folder, as the original wrote them. ``jumps`` is None when no run had one."""

    measure: str
    names: list[str]
    layers: list[list[str]]  # of each run, sorted by name as the original did
    series: list[np.ndarray]  # [layers, records] of each run
    convergence: list[dict[str, Any]]
    jumps: pd.DataFrame | None
    jump_summary: dict[str, Any]
    periods: pd.DataFrame
    period_summary: dict[str, Any]

    def told(self) -> list[str]:
        """What the original printed, in short, and what to think of it."""
        patterns: dict[str, int] = {}
        for entry in self.convergence:
            pattern = entry["convergence_pattern"]
            patterns[pattern] = patterns.get(pattern, 0) + 1
        summary = self.period_summary["summary"]
        counts = ", ".join(f"{name} {count}" for name, count in patterns.items())
        return [
            f"The original analysis of {self.measure}, {len(self.names)} runs:",
            f"  convergence: {counts}",
            f"  jumps: {self.jump_summary['total_jumps']:,}",
            f"  critical periods: {summary['mean_critical_periods']:.1f} steps a run, coordination"
            f" {summary['mean_coordination']:.3f}, {summary['experiments_with_strong_periods']} runs strong",
            "Its steps are indices of records, and its jumps are as many on noise; leave out --as-original.",
        ]


def analyse_folder(folder: str | Path, measure: str = "stable_rank") -> OriginalAnalysis:
    """Read every run file in ``folder`` and analyse one measure. Raises ``MicrotomeError`` in one line."""
    check_measure(measure)
    return analyse([read_original(path) for path in original_files(folder)], measure)


def check_measure(measure: str) -> None:
    """Raise ``MicrotomeError`` for a measure that the original files do not hold."""
    if measure not in MEASURES:
        raise bad_value("measure", measure, "not in the original files", f"choose {', '.join(MEASURES)}")


def analyse(files: Sequence[OriginalFile], measure: str = "stable_rank") -> OriginalAnalysis:
    """The three original analyses of runs that were read, in the order given."""
    layers = [sorted(file.layers) for file in files]
    series = [_series(file, names, measure) for file, names in zip(files, layers, strict=True)]
    jump_table, jump_summary = _jumps(files, layers, series)
    periods = pd.DataFrame(
        [
            _names(file) | critical_periods.describe(values, file.scalars["loss"])
            for file, values in zip(files, series, strict=True)
        ]
    )
    return OriginalAnalysis(
        measure=measure,
        names=[file.name for file in files],
        layers=layers,
        series=series,
        convergence=[
            convergence.describe(names, values)
            | {
                "experiment_name": file.name,
                "arch_name": _fact(file, "arch_name"),
                "dataset_name": _fact(file, "dataset_name"),
                "num_layers": len(names),
            }
            for file, names, values in zip(files, layers, series, strict=True)
        ],
        jumps=jump_table,
        jump_summary=jump_summary,
        periods=periods,
        period_summary={
            "summary": critical_periods.summary(periods),
            "experiment_results": [
                {str(key): value for key, value in row.items()} for row in periods.to_dict("records")
            ],
        },
    )


def write(result: OriginalAnalysis, folder: str | Path) -> list[Path]:
    """Write ``step1_1/``, ``step1_2/`` and ``step1_3/`` in ``folder`` with the original file names."""
    folder = Path(folder)
    paths = [
        _json(folder / "step1_1" / "convergence_analysis_summary.json", result.convergence),
        _json(folder / "step1_2" / "jump_characterization_summary.json", result.jump_summary),
        _json(folder / "step1_3" / "critical_periods_summary.json", result.period_summary),
        _csv(folder / "step1_3" / "critical_periods_detailed.csv", result.periods),
    ]
    table = folder / "step1_2" / "all_jumps_detailed.csv"
    if result.jumps is not None:
        paths.insert(1, _csv(table, result.jumps))
    else:
        table.unlink(missing_ok=True)  # of an earlier analysis: the original wrote none without jumps
    return paths


def _series(file: OriginalFile, layers: list[str], measure: str) -> np.ndarray:
    """``[layers, records]`` of one run."""
    if measure not in file.values:
        raise CannotLoad(f"{file.path}: holds no {measure}; it holds {', '.join(file.values)}")
    if "loss" not in file.scalars:
        raise CannotLoad(f"{file.path}: its records hold no loss; the original analysis needs it")
    if len(file.steps) < FEWEST_RECORDS:
        raise CannotLoad(f"{file.path}: holds {len(file.steps)} records; the original analysis needs 3")
    columns = [file.layers.index(name) for name in layers]
    return np.ascontiguousarray(file.values[measure][:, columns].T)


def _jumps(
    files: Sequence[OriginalFile], layers: list[list[str]], series: list[np.ndarray]
) -> tuple[pd.DataFrame | None, dict[str, Any]]:
    tables, summaries = [], []
    for file, names, values in zip(files, layers, series, strict=True):
        found = jumps.find_jumps(values)
        columns = jumps.describe(values, found, int(_fact(file, "num_steps")))
        tables.append(
            pd.DataFrame(
                {
                    **columns,
                    "layer": [names[layer] for layer in found[:, 0]],
                    **_names(file),
                    "phase_category": jumps.phase_category(columns["phase"]),
                }
            )
        )
        counts = np.bincount(found[:, 0], minlength=len(names))
        summaries.append(
            _names(file)
            | {
                "total_jumps": len(found),
                "num_layers": len(names),
                "jumps_per_layer": len(found) / len(names),
                "layer_analysis": {name: int(n) for name, n in zip(names, counts, strict=True)},
            }
        )
    if not any(len(table) for table in tables):
        return None, jumps.no_jumps(summaries)
    table = pd.concat([table for table in tables if len(table)], ignore_index=True)
    n_clusters, table["cluster"] = jumps.clusters(table)
    return table, jumps.summary(table, n_clusters, summaries)


def _names(file: OriginalFile) -> dict[str, Any]:
    return {
        "experiment": file.name,
        "arch_name": _fact(file, "arch_name"),
        "dataset": _fact(file, "dataset_name"),
    }


def _fact(file: OriginalFile, key: str) -> Any:
    if key not in file.facts:
        raise CannotLoad(f"{file.path}: names no {key}, which the original analysis writes into its tables")
    return file.facts[key]


def _json(path: Path, content: Any) -> Path:
    return write_text(path, json.dumps(content, indent=2))  # NaN stays NaN: the original wrote it so


def _csv(path: Path, table: pd.DataFrame) -> Path:
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False)
    return path
