"""A sweep as it will be run: read from its file and flags, kept in its folder, read back to resume."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveInt

from microtome.core.config import Config, Note
from microtome.core.errors import MicrotomeError
from microtome.core.runs import find_latest
from microtome.sweep.command import Programs, Template, at_recipe, build_template
from microtome.sweep.parameters import Space, parse_space
from microtome.sweep.search import GridSearch, Search, build_search
from microtome.sweep.spec import EarlyTerminate, Metric, SweepSpec, read_spec
from microtome.sweep.sweep_params import as_parameters, experiment_grids, is_sweep_params

NEVER = ("--resume", "--help", "-h")  # words of our commands that make no sense in a sweep


class SweepSettings(Config):
    """Everything that makes a sweep what it is; ``config.yaml`` of its folder."""

    source: str
    """The sweep file."""
    sweep: dict[str, Any]
    """What stood in it."""
    experiments: tuple[str, ...] = ()
    """Of a `sweep_params.yaml`: the recipes to run."""
    seed: int = 0
    """Seed of random and Bayesian searches."""
    count: PositiveInt | None = None
    """Most trials; the smaller of this and `run_cap` counts."""
    metric: Metric | None = None
    """In place of the file's."""
    batch: PositiveInt = 16
    """Most decompositions that run as one batched program; 1 runs each by itself."""
    runs_root: Path = Path("runs")
    working: Path = Path()
    """The folder that trials run in."""
    pinned: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """What `latest` meant when the sweep began, for each experiment, so that it means it to the end."""


@dataclass(frozen=True)
class Plan:
    """The searches and command lines of a sweep."""

    name: str
    method: str
    search: Search
    spaces: dict[str | None, Space]
    templates: dict[str | None, Template]
    metric: Metric | None
    early: EarlyTerminate | None

    @property
    def space(self) -> Space:
        """Every parameter of every experiment."""
        parameters = {n: p for space in self.spaces.values() for n, p in space.parameters.items()}
        return Space(
            parameters, {n: path for space in self.spaces.values() for n, path in space.paths.items()}
        )


def make_plan(settings: SweepSettings, programs: Programs, note: Note) -> Plan:
    """Read and check the sweep. Raises ``MicrotomeError`` in one line; nothing is written."""
    source = Path(settings.source)
    if is_sweep_params(settings.sweep):
        return _experiments(settings, programs, source)
    if settings.experiments:
        raise MicrotomeError(
            f"--experiments: {source.name} has no sections of experiments; leave the flag out"
        )
    spec = read_spec(settings.sweep, source.name, note)
    space = spec.space(source.name)
    _warn_of_exponents(space, note)
    template = build_template(spec.program, spec.command, programs, source.parent, settings.working)
    _check_words(template)
    ours = f"microtome {' '.join(template.ours)}" if template.ours else ""
    if ours and spec.program != ours:
        note(f"{spec.program or ours}: runs as `{ours}`")
    return Plan(
        name=_slug(spec.name or source.stem),
        method=spec.method,
        search=build_search(spec, space, settings.count, settings.seed),
        spaces={None: space},
        templates={None: template},
        metric=_metric(settings, spec),
        early=spec.early_terminate,
    )


def _experiments(settings: SweepSettings, programs: Programs, source: Path) -> Plan:
    spaces, metric = spaces_and_metric(settings)
    templates: dict[str | None, Template] = {}
    decompose = build_template("decompose", ["${program}"], programs, source.parent, settings.working)
    for name in spaces:
        templates[name] = at_recipe(decompose, programs.find_config(str(name)).resolve())
    return Plan(
        name=_slug(source.stem),
        method="grid",
        search=GridSearch(spaces, settings.count),
        spaces=spaces,
        templates=templates,
        metric=metric,
        early=None,
    )


def spaces_and_metric(settings: SweepSettings) -> tuple[dict[str | None, Space], Metric | None]:
    """The parameters of every experiment and the number to rank by, without looking for programs."""
    source = Path(settings.source).name
    if not is_sweep_params(settings.sweep):
        spec = read_spec(settings.sweep, source)
        return {None: spec.space(source)}, _metric(settings, spec)
    grids = experiment_grids(settings.sweep, settings.experiments, source)
    return {name: parse_space(as_parameters(grid), source) for name, grid in grids.items()}, settings.metric


def pin_latest(
    plan: Plan, settings: SweepSettings, programs: Programs, note: Note
) -> dict[str, dict[str, Any]]:
    """For decompositions of ``latest``: the target run that this is now. Raises ``CannotLoad``."""
    pinned: dict[str, dict[str, Any]] = {}
    first = {plan.search.propose(0, []).experiment: plan.search.propose(0, [])}
    for experiment, template in plan.templates.items():
        if template.ours[:1] != ("decompose",):
            continue
        proposal = first.get(experiment)
        try:
            read = programs.read(
                template.ours[:1] + template.arguments, proposal.parameters if proposal else {}, note
            )
        except MicrotomeError:
            continue  # said where trials are checked
        if read is None:
            continue
        config = read[0]
        task = getattr(config, "task_config", None)
        for field, holder in (("pretrained_model_path", config), ("task_config.pretrained_model_path", task)):
            if getattr(holder, "pretrained_model_path", None) == "latest":
                kind = _latest_kind(str(getattr(task, "task_name", "")))
                path = find_latest(settings.runs_root, kind).resolve()
                note(f"latest is {path} for the whole sweep")
                pinned[experiment or ""] = {field: str(path)}
    return pinned


def default_folder(plan: Plan, settings: SweepSettings) -> Path:
    """The same folder for the same sweep: file, configurations, seed; not how many trials of it."""
    identity = {
        "sweep": {key: value for key, value in settings.sweep.items() if key != "run_cap"},
        "experiments": list(plan.spaces) if settings.experiments else [],
        "seed": settings.seed,
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode())
    for template in plan.templates.values():
        for path in template.configs:
            digest.update(path.read_bytes())
    return settings.runs_root / f"sweep-{plan.name}-{digest.hexdigest()[:8]}"


def _metric(settings: SweepSettings, spec: SweepSpec) -> Metric | None:
    return settings.metric if settings.metric is not None else spec.metric


def _check_words(template: Template) -> None:
    for word in template.arguments:
        flag = word.split("=", 1)[0].replace("-", "_")
        if template.ours and word in NEVER:
            raise MicrotomeError(f"command: {word}: has no place in a sweep; leave it out")
        if template.ours and flag in ("__out_dir", "__output_dir"):
            raise MicrotomeError(f"command: {word}: every trial gets a folder of its own; leave it out")


def _warn_of_exponents(space: Space, note: Note) -> None:
    for name, parameter in space.parameters.items():
        kind = parameter.kind
        if (
            parameter.logarithmic
            and parameter.min is not None
            and not kind.endswith("_values")
            and parameter.min > 0
        ):
            note(
                f"parameters.{name}: {kind} takes exponents of e: min={parameter.min} is e^{parameter.min};"
                f" for the values themselves use {kind}_values"
            )


def _latest_kind(task: str) -> str:
    from microtome.decomposition.jobs import LATEST

    return LATEST.get(task, "train")


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "sweep"


def settings_from(mapping: Mapping[str, Any], source: str) -> SweepSettings:
    """The settings in a sweep's folder."""
    return SweepSettings.from_mapping(mapping, source)
