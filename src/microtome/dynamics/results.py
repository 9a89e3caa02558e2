"""The analysis of runs as tables and summaries, with the documented names, written to a folder."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from microtome.core.atomic import atomic_path, write_text
from microtome.core.plain import plain_value
from microtome.dynamics.analyse import RunAnalysis, analyse_run
from microtome.dynamics.critical_periods import documented
from microtome.dynamics.jump_types import describe, jump_types
from microtome.dynamics.jumps import FEWEST, Jump, Method
from microtome.dynamics.original.jumps import phase_category
from microtome.dynamics.run import DynamicsRun

SPEED_RECORDS = 2  # on each side of a jump

JUMP_COLUMNS = (
    *("step", "magnitude", "speed", "direction", "phase", "layer", "experiment", "arch_name", "dataset"),
    *("phase_category", "cluster", "measure", "z", "p", "before", "after", "record"),
)
RAMP_COLUMNS = (
    *("start", "middle", "end", "size", "gain", "fit", "layer", "measure", "bounded", "z"),
    *("experiment", "arch_name", "dataset"),
)


@dataclass(frozen=True)
class Analysis:
    """Runs that were analysed together."""

    runs: list[RunAnalysis]

    @cached_property
    def jumps(self) -> pd.DataFrame:
        """A row a jump. ``step`` is a training step, ``phase`` its share of the run, ``speed`` per step."""
        rows = [_jump_row(analysis, jump) for analysis in self.runs for jump in analysis.jumps]
        table = pd.DataFrame(rows, columns=[name for name in JUMP_COLUMNS if name != "cluster"])
        table.insert(JUMP_COLUMNS.index("cluster"), "cluster", jump_types(table))
        return table

    @cached_property
    def ramps(self) -> pd.DataFrame:
        """A row a ramp, in training steps."""
        rows = [asdict(ramp) | _names(a.run) for a in self.runs for ramp in a.ramps]
        return pd.DataFrame(rows, columns=list(RAMP_COLUMNS))

    @cached_property
    def periods(self) -> pd.DataFrame:
        """A row a run: the documented columns, what chance alone reaches, and the periods' number."""
        return pd.DataFrame([_names(a.run) | documented(a.coordination, a.loss) for a in self.runs])

    @property
    def warnings(self) -> list[str]:
        """What to know before believing the numbers, each once, with how many runs it concerns."""
        counts: dict[str, int] = {}
        for analysis in self.runs:
            for warning in analysis.warnings:
                counts[warning] = counts.get(warning, 0) + 1
        return [f"{text} ({n} runs)" if n > 1 else text for text, n in counts.items()]

    def told(self) -> list[str]:
        """What was found, in lines."""
        n_layers = sum(len(a.run.layers) for a in self.runs)
        lines = [f"warning: {text}" for text in self.warnings]
        lines.append(f"{len(self.runs)} run{'s' * (len(self.runs) != 1)}, {n_layers} layers:")
        measures = dict.fromkeys(name for a in self.runs for name in a.measures)
        scalars = dict.fromkeys(str(name) for table in (self.jumps, self.ramps) for name in table["measure"])
        for name in dict.fromkeys([*measures, *scalars]):
            jumps, ramps = (int((t["measure"] == name).sum()) for t in (self.jumps, self.ramps))
            lines.append(f"  {name}: {_count(jumps, 'jump')}, {_count(ramps, 'ramp')}")
        for analysis in self.runs if len(self.runs) == 1 else ():
            lines += _details(analysis)
        if all(len(a.run.steps()) < FEWEST for a in self.runs):
            lines.append("Too few records to say anything.")
        elif not len(self.jumps) and not len(self.ramps):
            lines.append("No transition: nothing stands out of a smooth course.")
        if len(self.jumps) and len(self.runs) > 1:
            lines += [f"  {line}" for line in describe(self.jumps)]
        n_periods = int(self.periods["num_coordinated_periods"].sum())
        lines.append(f"{_count(n_periods, 'period')} in which layers change together more than by chance.")
        return lines

    def write(self, folder: str | Path) -> list[Path]:
        """Write ``step1_1/``, ``step1_2/`` and ``step1_3/``, with the documented file names and columns."""
        folder = Path(folder)
        one, two, three = (folder / f"step1_{number}" for number in (1, 2, 3))
        return [
            _json(one / "convergence_analysis_summary.json", self.convergence_summary()),
            _csv(two / "all_jumps_detailed.csv", self.jumps),
            _csv(two / "all_ramps_detailed.csv", self.ramps),
            _json(two / "jump_characterization_summary.json", self.jump_summary()),
            _csv(three / "critical_periods_detailed.csv", self.periods),
            _json(three / "critical_periods_summary.json", self.period_summary()),
        ]

    def convergence_summary(self) -> list[dict[str, Any]]:
        """What ``convergence_analysis_summary.json`` holds; stabilization points are training steps."""
        summaries = []
        for analysis in self.runs:
            names = _names(analysis.run)
            summaries.append(
                analysis.convergence
                | {
                    "experiment_name": names["experiment"],
                    "arch_name": names["arch_name"],
                    "dataset_name": names["dataset"],
                    "num_layers": len(analysis.run.layers),
                    "measure": analysis.main_measure,
                }
            )
        return summaries

    def jump_summary(self) -> dict[str, Any]:
        """What ``jump_characterization_summary.json`` holds, with ramps and warnings."""
        table = self.jumps
        clusters = table["cluster"].value_counts()
        return {
            "total_jumps": len(table),
            "total_ramps": len(self.ramps),
            "experiments_with_jumps": int(table["experiment"].nunique()),
            "phase_distribution": table["phase_category"].value_counts().to_dict(),
            "cluster_info": {
                "n_clusters": len(clusters),
                "cluster_sizes": {str(label): int(count) for label, count in clusters.items()},
            },
            "experiment_summaries": [self._run_summary(analysis) for analysis in self.runs],
            "warnings": self.warnings,
        }

    def _run_summary(self, analysis: RunAnalysis) -> dict[str, Any]:
        layers = analysis.run.layers
        counts = {layer: sum(jump.layer == layer for jump in analysis.jumps) for layer in layers}
        return _names(analysis.run) | {
            "total_jumps": len(analysis.jumps),
            "total_ramps": len(analysis.ramps),
            "num_layers": len(layers),
            "jumps_per_layer": sum(counts.values()) / max(1, len(layers)),
            "layer_analysis": counts,
        }

    def period_summary(self) -> dict[str, Any]:
        """What ``critical_periods_summary.json`` holds, with the periods themselves."""
        table = self.periods
        return {
            "summary": {
                "mean_critical_periods": float(table["total_critical_steps"].mean()),
                "mean_coordination": float(table["mean_coordination"].mean()),
                "mean_loss_correlation": float(table["loss_correlation"].mean()),
                "mean_loss_base_rate": float(table["loss_base_rate"].mean()),
                "experiments_with_strong_periods": int((table["num_coordinated_periods"] > 0).sum()),
            },
            "experiment_results": [
                row | {"periods": [asdict(period) for period in analysis.coordination.periods]}
                for row, analysis in zip(table.to_dict("records"), self.runs, strict=True)
            ],
        }


def analyse(
    runs: Sequence[DynamicsRun],
    measures: Sequence[str] | None = None,
    *,
    method: Method = "level_shift",
    alpha: float = 0.01,
) -> Analysis:
    """Analyse runs by the tested detectors. Raises ``MicrotomeError``."""
    return Analysis([analyse_run(run, measures, method=method, alpha=alpha) for run in runs])


def _jump_row(analysis: RunAnalysis, jump: Jump) -> dict[str, Any]:
    run = analysis.run
    steps = run.steps()
    total = max(int(run.facts.get("num_steps", 0)), int(steps[-1]), 1)
    start = max(0, jump.index - 1 - SPEED_RECORDS)
    end = min(len(steps) - 1, jump.index + SPEED_RECORDS)
    phase = jump.step / total
    return {
        "step": jump.step,
        "magnitude": abs(jump.size),
        "speed": abs(jump.size) / max(1, int(steps[end] - steps[start])),
        "direction": "increase" if jump.size > 0 else "decrease",
        "phase": phase,
        "layer": jump.layer,
        **_names(run),
        "phase_category": str(phase_category(np.array([phase]))[0]),
        "measure": jump.measure,
        "z": jump.z,
        "p": jump.p,
        "before": jump.before,
        "after": jump.after,
        "record": jump.index,
    }


def _names(run: DynamicsRun) -> dict[str, str]:
    task = run.facts.get("task") or {}
    dataset = run.facts.get("dataset_name") or task.get("name") or ""
    return {"experiment": run.name, "arch_name": run.architecture, "dataset": str(dataset)}


def _details(analysis: RunAnalysis) -> list[str]:
    lines = []
    for ramp in sorted(analysis.ramps, key=lambda ramp: -ramp.z)[:10]:
        lines.append(
            f"  ramp of {ramp.layer or 'the run'} {ramp.measure}: middle at step {ramp.middle:.0f}, from"
            f" {ramp.start:.0f} to {ramp.end:.0f}, by {ramp.size:+.4g} (fit {ramp.fit:.3f}"
            f"{'' if ramp.bounded else ', its end not recorded'})"
        )
    for jump in sorted(analysis.jumps, key=lambda jump: -abs(jump.z))[:10]:
        lines.append(
            f"  jump of {jump.layer or 'the run'} {jump.measure} at step {jump.step}:"
            f" {jump.before:.4g} -> {jump.after:.4g} (z {jump.z:.1f}, p {jump.p:.2g})"
        )
    return lines


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'s' * (n != 1)}"


def _json(path: Path, content: Any) -> Path:
    return write_text(path, json.dumps(plain_value(content), indent=2) + "\n")


def _csv(path: Path, table: pd.DataFrame) -> Path:
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False)
    return path
