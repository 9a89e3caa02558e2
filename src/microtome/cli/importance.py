"""``microtome importance``: causal importances over all features and magnitudes, every site."""

from collections.abc import Sequence

from microtome.cli.flags import parse
from microtome.cli.magnitude import Options, sweep


def main(arguments: Sequence[str]) -> int:
    """Sweep as the words say, list the files and say which components turn on."""
    from microtome.magnitude.config import ImportanceConfig

    about = ImportanceConfig.__doc__ or ""
    parsed = parse(arguments, "importance [RUN | CONFIG.yaml]", about, Options, ImportanceConfig)
    from microtome.magnitude.importance_run import redraw, run

    how = {"show_progress": not parsed.options.quiet, "command": ["microtome", "importance", *arguments]}
    return sweep(
        parsed,
        ImportanceConfig,
        "importance",
        lambda config: run(config, runs_root=parsed.options.runs_root, **how),
        redraw,
    )
