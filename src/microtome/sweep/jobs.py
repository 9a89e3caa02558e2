"""From trials to processes: what each is given, and which decompositions share one batched program."""

import json
import math
import shutil
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from microtome.core.atomic import write_text
from microtome.core.config import Config
from microtome.core.errors import CannotLoad, MicrotomeError
from microtome.core.plain import plain_value
from microtome.core.runs import RunFolder
from microtome.sweep.command import INTERPRETER, OUT_FLAGS, Programs, fill
from microtome.sweep.plan import Plan, SweepSettings
from microtome.sweep.record import Trial
from microtome.sweep.trial import Job

PARAMETER_FILE = "WANDB_SWEEP_PARAM_PATH"
TRIAL_FOLDER = "MICROTOME_TRIAL_DIR"


class Workshop:
    """Makes the jobs of one sweep; its paths inside the sweep's folder."""

    def __init__(self, plan: Plan, settings: SweepSettings, programs: Programs, folder: Path) -> None:
        self.plan, self.settings, self.programs = plan, settings, programs
        self.folder = folder.resolve()
        self._configs: dict[int, tuple[Config, Path | None] | None] = {}

    def home(self, trial: Trial) -> Path:
        """The trial's own folder."""
        return self.folder / trial.name

    def log(self, trial: Trial) -> Path:
        """What the trial printed."""
        return self.folder / "logs" / f"{trial.name}.txt"

    def stop_file(self, trial: Trial) -> Path:
        """The file that asks the trial's process to stop."""
        return self._input(trial, ".stop")

    def command(self, trial: Trial) -> list[str]:
        """The command line of a trial run by itself, ``${interpreter}`` still in it."""
        template = self.plan.templates[trial.experiment]
        words = fill(
            template, trial.parameters, self.plan.spaces[trial.experiment], self._input(trial, ".json")
        )
        if not template.ours:
            return words
        words += [OUT_FLAGS[template.ours[0]], str(self.home(trial))] if template.ours[0] in OUT_FLAGS else []
        given = any(word.startswith(("--runs_root", "--runs-root")) for word in words)
        if template.ours[0] in ("decompose", "train") and not given:
            words += ["--runs_root", str(self.settings.runs_root)]
        return words

    def check(self, trial: Trial) -> tuple[Config, Path | None] | None:
        """The configuration that our command will run for a trial. Raises ``MicrotomeError``."""
        if trial.index not in self._configs:
            template = self.plan.templates[trial.experiment]
            words = (*template.ours[:1], *template.arguments)
            values = {**trial.parameters, **self._pinned(trial)}
            self._configs[trial.index] = (
                self.programs.read(words, values, lambda _: None) if template.ours else None
            )
        return self._configs[trial.index]

    def sorted_out(self, trials: Sequence[Trial]) -> tuple[list[Trial], list[Trial]]:
        """The trials whose configuration is sound, and the others, which have failed already."""
        sound, failed = [], []
        for trial in trials:
            try:
                self.check(trial)
                sound.append(trial)
            except MicrotomeError as error:
                trial.status, trial.reason = "failed", " ".join(str(error).split())
                failed.append(trial)
        return sound, failed

    def single(self, trial: Trial) -> Job:
        """A process of its own for one trial; a decomposition that has a checkpoint is carried on."""
        self._clear_stop(trial)
        home, ours = self.home(trial), self.plan.templates[trial.experiment].ours
        command = self.command(trial)
        if ours[:1] == ("decompose",) and _has_checkpoint(home):
            command = [INTERPRETER, "-m", "microtome", "decompose", "--resume", str(home)]
        elif home.exists():
            shutil.rmtree(home)
        if not ours:
            home.mkdir(parents=True)
        self._write_inputs(trial)
        return self._job([trial], command, bool(ours))

    def together(self, trials: Sequence[Trial]) -> Job:
        """One batched program for several decompositions; one that was killed is carried on."""
        configs = [self.check(trial) for trial in trials]
        known = [config for config in configs if config is not None]
        assert len(known) == len(trials)
        for trial in trials:
            self._clear_stop(trial)
            self._write_inputs(trial)
        path = self._input(trials[0], ".batch.json")
        relative_to = known[0][1]
        content = {
            "configs": [config.as_dict() for config, _ in known],
            "folders": [str(self.home(trial)) for trial in trials],
            "runs_root": str(self.settings.runs_root),
            "relative_to": str(relative_to.parent) if relative_to else None,
            "command": ["microtome", "sweep", self.settings.source],
        }
        write_text(path, json.dumps(content, indent=1))
        return self._job(trials, [INTERPRETER, "-m", "microtome.sweep.batch", str(path)], True)

    def groups(self, trials: Sequence[Trial], slots: int) -> list[list[Trial]]:
        """The trials by process: those that share shapes together, spread over the slots."""
        by_key: dict[Hashable, list[Trial]] = {}
        for trial in trials:
            by_key.setdefault(self._key(trial), []).append(trial)
        found: list[list[Trial]] = []
        for members in by_key.values():
            parts = max(math.ceil(len(members) / self.settings.batch), min(slots, len(members)))
            size = math.ceil(len(members) / parts)
            found += [members[i : i + size] for i in range(0, len(members), size)]
        return sorted(found, key=lambda group: group[0].index)

    def _key(self, trial: Trial) -> Hashable:
        config = self.check(trial)
        if self.settings.batch == 1 or self.plan.early is not None or config is None:
            return trial.index
        if self.plan.templates[trial.experiment].ours[:1] != ("decompose",):
            return trial.index
        from microtome.decomposition.together import together_key

        return (config[1], together_key(config[0]))  # pyright: ignore[reportArgumentType]

    def _job(self, trials: Sequence[Trial], command: Sequence[str], ours: bool) -> Job:
        first = trials[0]
        self.log(first).parent.mkdir(parents=True, exist_ok=True)
        environment = (
            {}
            if len(trials) > 1
            else {
                PARAMETER_FILE: str(self._input(first, ".yaml")),
                TRIAL_FOLDER: str(self.home(first)),
            }
        )
        return Job(
            trials=tuple(trial.index for trial in trials),
            command=tuple(command),
            environment=environment,
            working=str(self.settings.working.resolve()),
            log=str(self.log(first)),
            stop=str(self.stop_file(first)),
            ours=ours,
        )

    def _write_inputs(self, trial: Trial) -> None:
        """The parameters as W&B hands them over: a YAML file of ``name: {value: ...}``, and a JSON file."""
        space = self.plan.spaces[trial.experiment]
        nested = plain_value(space.nested({**trial.parameters, **self._pinned(trial)}))
        file = {"wandb_version": 1} | {name: {"value": value} for name, value in nested.items()}
        write_text(self._input(trial, ".yaml"), yaml.safe_dump(file, sort_keys=False, allow_unicode=True))
        write_text(self._input(trial, ".json"), json.dumps(plain_value(space.nested(trial.parameters))))

    def _pinned(self, trial: Trial) -> Mapping[str, Any]:
        pinned = self.settings.pinned.get(trial.experiment or "", {})
        return {name: value for name, value in pinned.items() if name not in trial.parameters}

    def _input(self, trial: Trial, suffix: str) -> Path:
        return self.folder / "inputs" / f"{trial.name}{suffix}"

    def _clear_stop(self, trial: Trial) -> None:
        self.stop_file(trial).unlink(missing_ok=True)


def finished_run(home: Path) -> bool:
    """Whether a folder holds a run of ours that came to its end."""
    try:
        return RunFolder.open(home).finished
    except CannotLoad:
        return False


def _has_checkpoint(home: Path) -> bool:
    try:
        return bool(RunFolder.open(home).checkpoint_steps())
    except MicrotomeError:
        return False
