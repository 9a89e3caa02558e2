"""``microtome components``: picture each component, and list which fire for which inputs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from microtome.cli.flags import build, parse
from microtome.cli.recipes import find_config
from microtome.core.config import Config, read_yaml
from microtome.core.device import say
from microtome.core.errors import MicrotomeError


class Options(Config):
    """What belongs to the command."""

    runs_root: Path = Path("runs")
    """The folder that `latest` and run names are looked for in."""


def main(arguments: Sequence[str]) -> int:
    """Write the pictures, print the statistics, and say where everything is."""
    from microtome.decomposition.interpret.components_config import ComponentsConfig

    about = ComponentsConfig.__doc__ or ""
    parsed = parse(arguments, "components RUN | CONFIG.yaml", about, Options, ComponentsConfig)
    base, source = _base(parsed.positional)
    config = build(ComponentsConfig, base, parsed.values, source, note=say)
    from microtome.decomposition.interpret.components import components

    made = components(config=config, runs_root=parsed.options.runs_root)
    print("\n".join(made.lines()))
    assert made.run is not None
    print(f"Wrote {made.run.path}")
    return 0


def _base(words: Sequence[str]) -> tuple[dict[str, Any], str]:
    """What the word before the flags stands for: a YAML file or a run."""
    if len(words) > 1:
        raise MicrotomeError(f"components: takes one run or one YAML file, not also {words[1]!r}")
    if words and words[0].endswith((".yaml", ".yml")):
        path = find_config(words[0])
        return read_yaml(path), str(path)
    return ({"model_path": words[0]} if words else {}), "config"
