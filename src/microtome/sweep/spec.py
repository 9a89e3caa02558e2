"""The sweep file: W&B's sweep YAML, read without W&B. Imports no torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from microtome.core.config import Config, Note, read_yaml
from microtome.core.errors import MicrotomeError, bad_value
from microtome.sweep.parameters import Space, parse_space, read_numbers


class Metric(Config):
    """The number that tells a good trial from a bad one."""

    retired: ClassVar[dict[str, str]] = {
        "impute": "a failed trial counts as the worst seen, which is W&B's default",
        "impute_while_running": "running trials are judged when they are done",
    }

    name: str
    """A key of the trial's summary or metrics; dots reach into mappings (`l0.linear1`), lists give a mean."""
    goal: Literal["minimize", "maximize"] = "minimize"
    target: float | None = None
    """No trial is started any more once one got this far."""


class EarlyTerminate(Config):
    """Hyperband: stop trials that are not among the best at certain iterations."""

    type: Literal["hyperband"] = "hyperband"
    min_iter: PositiveInt | None = None
    """First bracket; each next one is `eta` times as far."""
    max_iter: PositiveInt | None = None
    """Brackets at max_iter/eta, max_iter/eta^2, ... (`s` of them)."""
    s: PositiveInt | None = None
    eta: float = Field(3.0, gt=1)
    """At a bracket the best 1/eta go on."""
    strict: bool = False
    """Judge by the value at the bracket instead of the best value so far: stops more trials."""

    @model_validator(mode="after")
    def _check(self) -> "EarlyTerminate":
        if self.min_iter is None and self.max_iter is None:
            raise bad_value("min_iter", None, "hyperband needs brackets", "give min_iter, or max_iter and s")
        if self.min_iter is None and self.s is None:
            raise bad_value("s", None, "max_iter needs it", "give the number of brackets")
        return self


class SweepSpec(Config):
    """What to run, over which parameters, by which search."""

    retired: ClassVar[dict[str, str]] = {
        "controller": "the search always runs here",
        "apiVersion": "every version is read alike",
        "kind": "every kind is a sweep",
    }

    method: Literal["grid", "random", "bayes"]
    program: str = ""
    """A script, or one of our commands under its own or its old script name."""
    command: tuple[str | int | float, ...] | None = None
    """Words of the command line, with macros; null: `${env} ${interpreter} ${program} ${args}`."""
    parameters: dict[str, Any]
    metric: Metric | None = None
    run_cap: PositiveInt | None = None
    """Most trials."""
    early_terminate: EarlyTerminate | None = None
    name: str | None = None
    description: str | None = None
    project: str | None = None
    entity: str | None = None

    @model_validator(mode="after")
    def _check(self) -> "SweepSpec":
        if not self.program and not self.command:
            raise bad_value("program", self.program, "nothing to run", "name a script or a command")
        if self.metric is None and (self.method == "bayes" or self.early_terminate is not None):
            why = "method bayes" if self.method == "bayes" else "early_terminate"
            raise bad_value("metric", None, f"{why} needs one", "give metric: {name: ..., goal: ...}")
        return self

    def space(self, source: str = "sweep") -> Space:
        """The parameters, read and checked."""
        return parse_space(self.parameters, source)


def read_spec(mapping: Mapping[str, Any], source: str, note: Note | None = None) -> SweepSpec:
    """The sweep that a mapping describes. Raises ``MicrotomeError`` in one line."""
    for key in ("job", "image_uri"):
        if mapping.get(key):
            raise MicrotomeError(
                f"{source}: {key}={mapping[key]!r}: runs on W&B Launch only; give program instead"
            )
    for key in ("scheduler", "metrics"):
        if mapping.get(key):
            raise MicrotomeError(
                f"{source}: {key} is for W&B's custom schedulers; use method grid, random or bayes"
            )
    numbers = {key: read_numbers(value) for key, value in mapping.items() if key != "command"}
    spec = SweepSpec.from_mapping({**mapping, **numbers}, source, note)
    spec.space(source)
    return spec


def read_sweep_file(path: str | Path) -> dict[str, Any]:
    """The mapping in a sweep file, of either form."""
    mapping = read_yaml(path)
    if not mapping:
        raise MicrotomeError(f"{path}: is empty; a sweep names program, method and parameters")
    return mapping
