"""Running a sweep: trials are proposed, started, watched, recorded, until there is nothing left to do."""

import shutil
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from microtome.core.atomic import write_text
from microtome.core.config import Note
from microtome.core.errors import MicrotomeError
from microtome.core.plain import plain_value
from microtome.sweep.early import losing
from microtome.sweep.engines import Engine
from microtome.sweep.jobs import Workshop, finished_run
from microtome.sweep.metrics import find_metric, metric_history, no_such_metric, trial_metrics
from microtome.sweep.record import Record, Trial
from microtome.sweep.screen import SweepProgress
from microtome.sweep.spec import Metric
from microtome.sweep.trial import Outcome

WATCH_EVERY = 0.2
JUDGE_EVERY = 1.0


class Driver:
    """One sweep under way."""

    def __init__(
        self, workshop: Workshop, record: Record, engine: Engine, note: Note, retry_failed: bool = False
    ) -> None:
        self.workshop, self.record, self.engine, self.note = workshop, record, engine, note
        self.plan = workshop.plan
        self.trials = record.load()
        self._waiting: deque[list[Trial]] = deque()
        self._running: dict[int, tuple[Trial, ...]] = {}  # first trial of a job -> its trials
        self._judged = 0.0
        if retry_failed:
            self._retry()
        self._missing_metric: str | None = None

    # -- from here to the end ------------------------------------------------------------------------------

    def run(self, show: bool = True) -> None:
        """Run what is not done. On Ctrl-C the trials are stopped and recorded, and the interrupt goes on."""
        self._settle_leftovers()
        self._line_up()
        with SweepProgress(self.plan.search.total, self._done(), enabled=show) as screen:
            try:
                while True:
                    self._start_what_fits()
                    if not self._running:
                        break
                    for outcome in self.engine.wait(WATCH_EVERY):
                        self._settle(outcome)
                    self._judge()
                    self._show(screen)
                    if self._missing_metric and self._needs_metric():
                        raise MicrotomeError(self._missing_metric)
            except BaseException:
                self._stop_all()
                raise
            finally:
                self._show(screen)
        for left in self.workshop.folder.glob(".together-*"):
            shutil.rmtree(left, ignore_errors=True)

    def _done(self) -> int:
        return sum(trial.ended for trial in self.trials.values())

    def _show(self, screen: SweepProgress) -> None:
        trials = self.trials.values()
        running = sum(map(len, self._running.values()))
        best = self.best()
        value = None if best is None or self.plan.metric is None else best.metrics
        shown = find_metric(value, self.plan.metric.name) if value and self.plan.metric else None
        screen.show(self._done(), running, sum(t.status == "failed" for t in trials), shown)

    # -- what to run ---------------------------------------------------------------------------------------

    def _retry(self) -> None:
        failed = [trial for trial in self.trials.values() if trial.status == "failed"]
        for trial in failed:
            trial.status, trial.reason = "interrupted", ""
        self.record.write(failed)

    def _settle_leftovers(self) -> None:
        """Trials that came to their end, but were killed before that was written down."""
        for trial in self.trials.values():
            if (
                trial.status == "interrupted"
                and self._is_ours(trial)
                and finished_run(self.workshop.home(trial))
            ):
                trial.status, trial.metrics = "finished", self._metrics(trial)
                self.record.write([trial])

    def _line_up(self) -> None:
        """The trials that were interrupted first, then, where they are known beforehand, all the others."""
        again = [trial for trial in self.trials.values() if not trial.ended]
        for group in self._as_before(again):
            self._waiting.append(group)
        if not self.plan.search.ahead:
            return
        fresh = [self._propose(i) for i in range(self.plan.search.total) if i not in self.trials]
        self._waiting.extend(self.workshop.groups(self._checked(fresh), self.engine.slots))

    def _as_before(self, trials: Sequence[Trial]) -> list[list[Trial]]:
        """Interrupted trials in the batches that they ran in, where a batch can be carried on as a whole."""
        groups: dict[tuple[int, ...], list[Trial]] = {}
        for trial in trials:
            groups.setdefault(tuple(trial.batch) or (trial.index,), []).append(trial)
        found = []
        for batch, members in groups.items():
            whole = len(members) == len(batch)
            found += [members] if whole else [[trial] for trial in members]
        return found

    def _propose(self, index: int) -> Trial:
        proposal = self.plan.search.propose(index, list(self.trials.values()))
        # As JSON holds it, so that a resumed sweep has the very same values.
        return Trial(index, plain_value(proposal.parameters), proposal.experiment)

    def _checked(self, trials: Sequence[Trial]) -> list[Trial]:
        """The trials whose configuration is sound; the others are recorded as failed.

        Raises ``MicrotomeError`` when none is: then it is the sweep that has to be mended.
        """
        sound, failed = self.workshop.sorted_out(trials)
        if failed and not sound and not self.trials:
            raise MicrotomeError(failed[0].reason)
        self.trials |= {trial.index: trial for trial in failed}
        self.record.write(failed)
        return sound

    def _start_what_fits(self) -> None:
        while len(self._running) < self.engine.slots:
            group = self._next_group()
            if group is None:
                return
            for trial in group:
                self.trials[trial.index] = trial
                trial.status, trial.batch = "running", [t.index for t in group] if len(group) > 1 else []
            self.record.write(group)  # before it starts: a kill in between leaves a trial to run again
            job = self.workshop.single(group[0]) if len(group) == 1 else self.workshop.together(group)
            self._running[group[0].index] = tuple(group)
            self.engine.submit(job)

    def _next_group(self) -> list[Trial] | None:
        if self._target_reached():
            return None
        if self._waiting:
            return self._waiting.popleft()
        while not self.plan.search.ahead:
            index = max(self.trials, default=-1) + 1
            if index >= self.plan.search.total:
                return None
            sound = self._checked([self._propose(index)])
            if sound:
                return sound
        return None

    def _target_reached(self) -> bool:
        metric, best = self.plan.metric, self.best()
        if metric is None or metric.target is None or best is None:
            return False
        value = find_metric(best.metrics, metric.name)
        assert value is not None
        return value <= metric.target if metric.goal == "minimize" else value >= metric.target

    # -- what came of it -----------------------------------------------------------------------------------

    def _settle(self, outcome: Outcome) -> None:
        trials = self._running.pop(outcome.trials[0])
        together = len(trials) > 1
        for trial in trials:
            trial.seconds = (trial.seconds or 0.0) + outcome.seconds / len(trials)
            trial.metrics = self._metrics(trial)
            if outcome.stopped == "interrupt":
                trial.status = "interrupted"
            elif outcome.stopped == "early":
                trial.status = "stopped"
            elif outcome.code == 0 or (together and finished_run(self.workshop.home(trial))):
                trial.status, trial.reason = "finished", ""
            elif together:
                # One bad member ends the whole program: each gets a process of its own.
                trial.status, trial.batch = "interrupted", []
                self._waiting.append([trial])
            else:
                trial.status, trial.reason = "failed", outcome.reason
        if together and outcome.code and not outcome.stopped:
            which = f"trials {trials[0].index} to {trials[-1].index}"
            self.note(f"{which} together: {outcome.reason}; now each by itself")
        self.record.write(trials)
        self._look_for_metric(trials)

    def _metrics(self, trial: Trial) -> dict[str, float]:
        return trial_metrics(self.workshop.home(trial), self.workshop.log(trial))

    def _look_for_metric(self, trials: Sequence[Trial]) -> None:
        metric = self.plan.metric
        if metric is None or self.best() is not None:
            self._missing_metric = None
            return
        finished = [trial for trial in trials if trial.status == "finished"]
        if finished:
            self._missing_metric = no_such_metric(metric.name, list(finished[0].metrics))

    def _needs_metric(self) -> bool:
        return self.plan.method == "bayes" or self.plan.early is not None

    def best(self) -> Trial | None:
        """The ended trial with the best metric; None when there is no metric or nobody reported it."""
        return best_trial(list(self.trials.values()), self.plan.metric)

    def _is_ours(self, trial: Trial) -> bool:
        return bool(self.plan.templates[trial.experiment].ours)

    # -- stopping ------------------------------------------------------------------------------------------

    def _judge(self) -> None:
        """Hyperband: ask the trials that lag behind to stop."""
        rule, metric = self.plan.early, self.plan.metric
        if rule is None or metric is None or time.monotonic() - self._judged < JUDGE_EVERY:
            return
        self._judged = time.monotonic()
        histories = {
            index: metric_history(self.workshop.home(trial), self.workshop.log(trial), metric.name)
            for index, trial in self.trials.items()
            if trial.status in ("running", "finished", "stopped")
        }
        for index in losing(histories, list(self._running), rule, metric.goal == "minimize"):
            self._ask_to_stop(self.trials[index], "early")

    def _ask_to_stop(self, trial: Trial, why: str) -> None:
        path: Path = self.workshop.stop_file(trial)
        if not path.exists():
            write_text(path, why)

    def _stop_all(self) -> None:
        """Stop what runs and record it; a second Ctrl-C kills what does not stop at once."""
        for index in self._running:
            self._ask_to_stop(self.trials[index], "interrupt")
        while self._running:
            try:
                for outcome in self.engine.wait(WATCH_EVERY):
                    self._settle(outcome)
            except KeyboardInterrupt:
                for index in self._running:
                    write_text(self.workshop.stop_file(self.trials[index]), "now")


def best_trial(trials: Sequence[Trial], metric: Metric | None) -> Trial | None:
    """The finished or stopped trial with the best metric; the first of equals."""
    if metric is None:
        return None
    sign = 1.0 if metric.goal == "minimize" else -1.0
    scored = [
        (sign * value, trial.index, trial)
        for trial in trials
        if trial.status in ("finished", "stopped")
        and (value := find_metric(trial.metrics, metric.name)) is not None
    ]
    return min(scored, key=lambda row: row[:2])[2] if scored else None
