"""``microtome magnitude``: sweep one input's magnitude through a decomposed network."""

from collections.abc import Sequence

from microtome.cli.flags import build, parse
from microtome.cli.help import command_help
from microtome.cli.recipes import find_config
from microtome.cli.train import one_config
from microtome.core.config import Config, read_yaml
from microtome.core.device import say

USAGE = "microtome magnitude [CONFIG.yaml] [--flag value ...]"


class Options(Config):
    """Nothing but the configuration."""


def main(arguments: Sequence[str]) -> int:
    """Sweep as the words say and list the files."""
    from microtome.magnitude.config import MagnitudeConfig

    parsed = parse(arguments, MagnitudeConfig, Options)
    if parsed.help:
        print(command_help(USAGE, MagnitudeConfig.__doc__ or "", Options, {"configuration": MagnitudeConfig}))
        return 0
    given = one_config(parsed.positional, "magnitude")
    path = find_config(given) if given else None
    config = build(
        MagnitudeConfig, read_yaml(path) if path else {}, parsed.values, str(path or "config"), note=say
    )
    from microtome.magnitude.run import run

    made = run(config)
    for file in made if isinstance(made, (list, tuple)) else [made]:
        print(f"Wrote {getattr(file, 'path', file)}")
    return 0
