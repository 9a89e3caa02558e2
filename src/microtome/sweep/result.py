"""What a sweep found: the trials, the best one, a table and pictures."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microtome.core.errors import MicrotomeError
from microtome.core.runs import RunFolder
from microtome.sweep.driver import best_trial
from microtome.sweep.metrics import find_metric, no_such_metric
from microtome.sweep.parameters import Parameter
from microtome.sweep.picture_data import Axis, number_axis, parameter_axis, spread
from microtome.sweep.record import Status, Trial, write_table
from microtome.sweep.search import varying
from microtome.sweep.spec import Metric

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class SweepResult:
    """A sweep's trials, finished or not; a folder tells the same again with ``load_sweep``."""

    folder: Path
    name: str
    trials: tuple[Trial, ...]
    parameters: Mapping[str, Parameter]
    metric: Metric | None

    @property
    def best(self) -> Trial | None:
        """The trial with the best metric; None when there is no metric or no trial reported it."""
        return best_trial(self.trials, self.metric)

    @property
    def varying(self) -> list[str]:
        """The parameters that trials differ in."""
        return varying(self.parameters)

    def count(self, status: Status) -> int:
        """How many trials have a status."""
        return sum(trial.status == status for trial in self.trials)

    def score(self, trial: Trial) -> float | None:
        """The metric of a trial."""
        if self.metric is None or trial.status not in ("finished", "stopped"):
            return None
        return find_metric(trial.metrics, self.metric.name)

    def missing_metric(self) -> str | None:
        """One line when the metric is named and finished trials did not report it."""
        done = [trial for trial in self.trials if trial.status == "finished"]
        if self.metric is None or not done or self.best is not None:
            return None
        return no_such_metric(self.metric.name, list(done[0].metrics))

    def ranked(self) -> list[Trial]:
        """The trials, best first, those without a metric last."""
        sign = -1.0 if self.metric is not None and self.metric.goal == "maximize" else 1.0
        scores = {trial.index: self.score(trial) for trial in self.trials}

        def key(trial: Trial) -> tuple[bool, float, int]:
            score = scores[trial.index]
            return (score is None, 0.0 if score is None else sign * score, trial.index)

        return sorted(self.trials, key=key)

    def frame(self) -> "pd.DataFrame":
        """A row a trial: status, parameters, metrics (``metric.`` before the name), seconds."""
        import pandas as pd

        rows = [
            {"trial": t.index, "status": t.status, "experiment": t.experiment}
            | t.parameters
            | {f"metric.{name}": value for name, value in t.metrics.items()}
            | {"seconds": t.seconds, "reason": t.reason}
            for t in self.trials
        ]
        frame = pd.DataFrame(rows)
        return frame.drop(columns="experiment") if rows and frame["experiment"].isna().all() else frame

    def plot(self) -> "Figure":
        """The parallel-coordinates picture."""
        from microtome.sweep.plots import parallel_coordinates

        order = {trial.index: place for place, trial in enumerate(self.trials)}
        best = order[self.best.index] if self.best is not None else None
        failed = [trial.status == "failed" for trial in self.trials]
        axes = [spread(axis, self._scores()) for axis in self._axes()]
        return parallel_coordinates(axes, self._score_axis(), failed, self._title(), best)

    def plot_by_parameter(self) -> "Figure":
        """The metric over each parameter. Raises ``MicrotomeError`` without a metric."""
        from microtome.sweep.plots import metric_by_parameter

        score = self._score_axis()
        if score is None:
            raise MicrotomeError("metric=None: no number to draw; name one with --metric")
        return metric_by_parameter(self._axes(), score, self._title())

    def _repr_html_(self) -> str:
        return f"<p>{self._title()}</p>{self.frame()._repr_html_()}"  # pyright: ignore[reportCallIssue]

    def _title(self) -> str:
        done, failed = self.count("finished"), self.count("failed")
        told = [f"{done} finished"] + [
            f"{n} {s}" for s, n in (("stopped", self.count("stopped")), ("failed", failed)) if n
        ]
        return f"{self.name}: {len(self.trials)} trials, {', '.join(told)}"

    def _axes(self) -> list[Axis]:
        names = self.varying or list(self.parameters)[:1]
        axes = [
            parameter_axis(name, self.parameters[name], [t.parameters.get(name) for t in self.trials])
            for name in names
        ]
        if any(trial.experiment for trial in self.trials):
            axes.insert(0, parameter_axis("experiment", None, [trial.experiment for trial in self.trials]))
        return axes

    def _scores(self) -> list[float]:
        scores = [self.score(trial) for trial in self.trials]
        return [float("nan") if score is None else score for score in scores]

    def _score_axis(self) -> Axis | None:
        if self.metric is None or self.best is None:
            return None
        return number_axis(self.metric.name, self._scores())

    def save(self, run: RunFolder) -> None:
        """Write ``sweep.csv`` and the pictures into the sweep's folder."""
        write_table(run.path / "sweep.csv", self.trials)
        if not self.trials:
            return
        run.save_figure("parallel_coordinates", self.plot())
        if self._score_axis() is not None:
            run.save_figure("metric_by_parameter", self.plot_by_parameter())

    def summary(self) -> dict[str, Any]:
        """The numbers of ``summary.json``."""
        counts = {status: self.count(status) for status in ("finished", "failed", "stopped")}
        found: dict[str, Any] = {"trials": len(self.trials), **counts}
        if self.best is not None and self.metric is not None:
            found["best"] = {
                "trial": self.best.index,
                "folder": self.best.name,
                self.metric.name: self.score(self.best),
                "parameters": self.best.parameters,
            }
        return found
