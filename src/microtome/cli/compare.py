"""``microtome compare``: two image networks side by side."""

import sys
from collections.abc import Sequence
from pathlib import Path

from microtome.cli.flags import Parsed, build, parse
from microtome.cli.recipes import find_config
from microtome.cli.train import one_config
from microtome.comparison.config import CompareConfig
from microtome.core.config import Config, read_yaml
from microtome.core.device import say
from microtome.core.errors import MicrotomeError

ABOUT = (
    "Sets two (or more) image networks side by side, in weights, activations, features and what can be"
    " decoded, and says which differences stand above noise. --model-a A.pt --model-b B.pt; several files"
    " after one flag are seeds."
)
# Old flag -> ours, and what the arm is called then.
OLD_ARMS = {"meta_model": ("model_a", "name_a", "meta"), "baseline_model": ("model_b", "name_b", "baseline")}


class Options(Config):
    """What is done with a comparison that is there already."""

    resume: Path | None = None
    """Carry this stopped comparison on: its output folder."""
    redraw: Path | None = None
    """Draw the pictures and the page of this finished comparison again: its output folder."""
    quiet: bool = False
    """Show no progress."""


def parse_args(arguments: Sequence[str] | None = None) -> CompareConfig:
    """The settings that the words (default: those of this process) ask for. Raises ``MicrotomeError``."""
    words = sys.argv[1:] if arguments is None else arguments
    return _asked(parse(spelled(words), "compare [CONFIG.yaml]", ABOUT, Options, CompareConfig))


def _asked(parsed: Parsed) -> CompareConfig:
    given = one_config(parsed.positional, "compare")
    path = find_config(given, command="compare") if given else None
    base = read_yaml(path) if path else {}
    return build(CompareConfig, base, parsed.values, str(path) if path else "config", note=say)


def main(arguments: Sequence[str]) -> int:
    """Compare, and tell what stands above noise."""
    parsed = parse(spelled(arguments), "compare [CONFIG.yaml]", ABOUT, Options, CompareConfig)
    if parsed.options.redraw is not None:
        _alone(parsed, "redraw")
        from microtome.comparison.run import redraw
        from microtome.explorer.comparison import write_page

        comparison = redraw(parsed.options.redraw)
        print(f"Wrote {write_page(comparison)}")
        return 0
    if parsed.options.resume is not None:
        _alone(parsed, "resume")
        file = parsed.options.resume / "config.yaml"
        config = CompareConfig.from_mapping(read_yaml(file), source=str(file))
        config = config.model_copy(update={"output_dir": parsed.options.resume})
    else:
        config = _asked(parsed)
    from microtome.comparison.run import run
    from microtome.comparison.told import told
    from microtome.explorer.comparison import write_page

    comparison = run(
        config,
        resume=parsed.options.resume is not None,
        command=["microtome", "compare", *arguments],
        show_progress=not parsed.options.quiet,
    )
    page = write_page(comparison)
    print("\n".join(told(comparison)))
    print(f"One page about it: {page}")
    return 0


def _alone(parsed: Parsed, flag: str) -> None:
    for extra in [*parsed.positional, *(f"--{name}" for name in parsed.values)]:
        raise MicrotomeError(f"--{flag}: a comparison keeps its own settings; leave out {extra}")


def spelled(words: Sequence[str]) -> list[str]:
    """The words with the old arms' flags in our spelling: ``--meta-model X`` names the first arm meta."""
    result: list[str] = []
    names = {word.partition("=")[0].lstrip("-").replace("-", "_") for word in words if word.startswith("--")}
    for word in words:
        flag, equals, value = word.partition("=")
        old = OLD_ARMS.get(flag.lstrip("-").replace("-", "_")) if flag.startswith("--") else None
        if old is None:
            old_data = word.startswith("--") and flag.lstrip("-").replace("-", "_") == "data_dir"
            result.append(f"--data{equals}{value}" if old_data else word)
            continue
        ours, name_flag, name = old
        if name_flag not in names:
            result.append(f"--{name_flag}={name}")
        result += [f"--{ours}{equals}{value}"]
    return result
