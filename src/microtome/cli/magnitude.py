"""``microtome magnitude``: sweep one input's magnitude through a decomposed network."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microtome.cli.flags import Parsed, build, parse
from microtome.cli.recipes import find_config, recipes
from microtome.cli.sweep_parameters import sweep_parameters
from microtome.cli.train import one_config
from microtome.core.config import Config, read_yaml
from microtome.core.device import say
from microtome.core.errors import MicrotomeError

if TYPE_CHECKING:
    from microtome.core.runs import RunFolder
    from microtome.magnitude.run import Made

LISTED = 12


class Options(Config):
    """Where runs are, and whether one is drawn again."""

    redraw: Path | None = None
    """Draw a finished sweep again, as the other flags say, without its network."""
    runs_root: Path = Path("runs")
    """The folder that runs are looked for and made in."""
    quiet: bool = False
    """Show no progress."""


def main(arguments: Sequence[str]) -> int:
    """Sweep as the words say, list the files and print a short table of the responses."""
    from microtome.magnitude.config import MagnitudeConfig

    parsed = parse(
        arguments, "magnitude [RUN | CONFIG.yaml]", MagnitudeConfig.__doc__ or "", Options, MagnitudeConfig
    )
    from microtome.magnitude.run import redraw, run

    words = ["microtome", "magnitude", *arguments]
    how: dict[str, Any] = {"processes": _cores(), "show_progress": not parsed.options.quiet}
    return sweep(
        parsed,
        MagnitudeConfig,
        "magnitude",
        lambda config: run(config, runs_root=parsed.options.runs_root, command=words, **how),
        lambda folder, config: redraw(folder, config, **how),
    )


def _is_configuration(word: str, command: str) -> bool:
    """Whether a word names a configuration rather than the run to sweep."""
    names = {name.replace("-", "_") for name in recipes(command=command)}
    return word.endswith((".yaml", ".yml")) or word.replace("-", "_") in names


def sweep(
    parsed: Parsed,
    model: type[Config],
    command: str,
    run: "Callable[[Any], Made]",
    redraw: "Callable[[RunFolder, Any], Made]",
) -> int:
    """Run a sweep, or draw one again, and tell what was made."""
    if parsed.options.redraw is not None:
        made = _drawn_again(parsed, model, command, redraw)
    else:
        parsed.values |= sweep_parameters()
        given = one_config(parsed.positional, command)
        if given and not _is_configuration(given, command):
            parsed.values.setdefault("model_path", given)
            given = None
        path = find_config(given, command=command) if given else None
        base = read_yaml(path) if path else {}
        config = build(model, _beside(base, path), parsed.values, str(path or "config"), note=say)
        made = run(config)
    for file in made.files[:LISTED]:
        print(f"Wrote {file}")
    if len(made.files) > LISTED:
        print(f"Wrote {len(made.files) - LISTED} more in {made.folder}")
    if made.lines:
        print()
    for line in made.lines:
        print(line)
    return 0


def _drawn_again(
    parsed: Parsed, model: type[Config], command: str, redraw: "Callable[[RunFolder, Any], Made]"
) -> "Made":
    from microtome.core.references import open_run

    swept = (
        "model_path",
        "output_dir",
        "device",
        "features",
        "feature_idx",
        "n_steps",
        "max_magnitude",
        "two_sided",
    )
    given = [*parsed.positional, *(f"--{name}" for name in swept if name in parsed.values)]
    if given:
        raise MicrotomeError(f"{command}: --redraw takes what was swept as it is; leave out {given[0]}")
    options = parsed.options
    folder = open_run(options.redraw, runs_root=options.runs_root, want=command)
    if folder.kind != command:
        raise MicrotomeError(f"{folder.path}: a {folder.kind} run; --redraw takes one that {command} made")
    return redraw(
        folder, build(model, folder.config, parsed.values, str(folder.path / "config.yaml"), note=say)
    )


def _beside(base: dict[str, Any], path: Path | None) -> dict[str, Any]:
    """A relative ``model_path`` in a file may be meant from the file's folder."""
    model = base.get("model_path", base.get("model-path"))
    if path is None or not isinstance(model, str) or ":" in model or Path(model).exists():
        return base
    near = path.parent / model
    return {**base, "model_path": str(near)} if near.exists() else base


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
