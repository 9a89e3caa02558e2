"""What is known of every trial, on disk: one line an event, so that a kill at any moment loses nothing."""

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from microtome.core.atomic import cannot_write, write_text
from microtome.core.plain import plain_value

Status = Literal["waiting", "running", "finished", "failed", "stopped", "interrupted"]
ENDED: tuple[Status, ...] = ("finished", "failed", "stopped")


@dataclass
class Trial:
    """One set of parameters and what became of it. Its folder is ``trial_<index>`` in the sweep's."""

    index: int
    parameters: dict[str, Any]
    experiment: str | None = None
    status: Status = "waiting"
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float | None = None
    reason: str = ""
    """Why it failed, in one line."""
    batch: list[int] = field(default_factory=list)
    """The trials it shares one program with, itself included; empty when it runs alone."""

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"trial_{self.index:04d}"

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to do for it."""
        return self.status in ENDED


class Record:
    """``trials.jsonl`` of a sweep: appended to at every change, read back by ``load``."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "trials.jsonl"

    def write(self, trials: Iterable[Trial]) -> None:
        """Append the trials as they are now, and have the disk hold it before returning."""
        lines = "".join(json.dumps(plain_value(asdict(trial))) + "\n" for trial in trials)
        try:
            with self.path.open("a+b") as file:
                if file.seek(0, os.SEEK_END) and self._cut_short():
                    lines = "\n" + lines
                file.write(lines.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def _cut_short(self) -> bool:
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"

    def load(self) -> dict[int, Trial]:
        """The last state of every trial, by index. One that was running when all ended is ``interrupted``."""
        trials: dict[int, Trial] = {}
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        for line in text.splitlines():
            try:
                trial = Trial(**json.loads(line))
            except (ValueError, TypeError):
                continue  # a line that a kill cut short
            if trial.status == "running":
                trial.status = "interrupted"
            trials[trial.index] = trial
        return dict(sorted(trials.items()))


def write_table(path: Path, trials: Iterable[Trial]) -> Path:
    """``sweep.csv``: one row a trial, one column a parameter (``parameter.``) and a number (``metric.``)."""
    trials = list(trials)
    parameters = list(dict.fromkeys(name for trial in trials for name in trial.parameters))
    metrics = list(dict.fromkeys(name for trial in trials for name in trial.metrics))
    rows = [
        {"trial": t.index, "status": t.status, "experiment": t.experiment or ""}
        | {f"parameter.{name}": _cell(t.parameters, name) for name in parameters}
        | {f"metric.{name}": t.metrics.get(name, "") for name in metrics}
        | {"seconds": "" if t.seconds is None else round(t.seconds, 2), "reason": t.reason}
        for t in trials
    ]
    columns = list(rows[0]) if rows else ["trial", "status"]
    if not any(trial.experiment for trial in trials) and rows:
        columns.remove("experiment")
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return write_text(path, out.getvalue())


def _cell(values: Mapping[str, Any], name: str) -> Any:
    value = values.get(name, "")
    return value if isinstance(value, (str, int, float)) else json.dumps(value)
