"""``microtome magnitude``: sweep one input's magnitude through a decomposed network."""

from collections.abc import Sequence

from microtome.cli.flags import build, parse
from microtome.cli.recipes import find_config
from microtome.cli.train import one_config
from microtome.core.config import Config, read_yaml
from microtome.core.device import say


def main(arguments: Sequence[str]) -> int:
    """Sweep as the words say and list the files."""
    from microtome.magnitude.config import MagnitudeConfig

    about = MagnitudeConfig.__doc__ or ""
    parsed = parse(arguments, "magnitude [CONFIG.yaml]", about, Config, MagnitudeConfig)
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
