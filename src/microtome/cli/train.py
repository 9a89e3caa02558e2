"""``microtome train``: fit a target network."""

import importlib
from collections.abc import Sequence
from pathlib import Path

from microtome.cli.flags import Parsed, build, parse
from microtome.cli.recipes import find_config
from microtome.cli.sweep_parameters import sweep_parameters
from microtome.core.config import Config, Note, read_yaml
from microtome.core.config_keys import nearest
from microtome.core.device import say
from microtome.core.errors import MicrotomeError

# Subject -> (configuration in microtome.training.config, module and function that train it).
SUBJECTS: dict[str, tuple[str, str, str]] = {
    "tms": ("TMSTrainConfig", "microtome.training.toy", "train_tms"),
    "resid-mlp": ("ResidMLPTrainConfig", "microtome.training.toy", "train_resid_mlp"),
    "digits": ("DigitsTrainConfig", "microtome.training.classify", "train_digits"),
}
ABOUT = (
    "Trains a target and saves it in a run folder: tms (Toy Model of Superposition), resid-mlp (residual MLP)"
    " or digits (a classifier of scikit-learn's handwritten digits). `microtome train tms --help` lists the"
    " flags of one."
)


class Options(Config):
    """Where the run goes."""

    out_dir: Path | None = None
    """The run folder itself; left out, a new one under runs_root."""
    runs_root: Path = Path("runs")
    """The folder that run folders are made in."""
    quiet: bool = False
    """Show no progress."""


def main(arguments: Sequence[str]) -> int:
    """Train the subject that the first word names."""
    words = list(arguments)
    if not words or words[0] in ("-h", "--help"):
        parse(["--help"], "train tms|resid-mlp|digits [CONFIG.yaml]", ABOUT, Options)
    subject = words.pop(0).replace("_", "-")
    if subject not in SUBJECTS:
        near = nearest(subject, list(SUBJECTS))
        mend = f"did you mean {near}?" if near else f"choose {', '.join(SUBJECTS)}"
        raise MicrotomeError(f"train {subject}: no such target; {mend}")
    _, module_name, function_name = SUBJECTS[subject]
    model = model_of(subject)
    parsed = parse(words, f"train {subject} [CONFIG.yaml]", model.__doc__ or "", Options, model)
    parsed.values |= sweep_parameters()
    config, _ = configuration(model, parsed, f"train {subject}", note=say)
    train = getattr(importlib.import_module(module_name), function_name)
    run = train(
        config,
        runs_root=parsed.options.runs_root,
        out_dir=parsed.options.out_dir,
        command=["microtome", "train", *arguments],
        show_progress=not parsed.options.quiet,
    )
    print(f"Trained. Results: {run.path}")
    return 0


def model_of(subject: str) -> type[Config]:
    """The configuration of a subject."""
    return getattr(importlib.import_module("microtome.training.config"), SUBJECTS[subject][0])


def configuration(
    model: type[Config], parsed: Parsed, command: str, note: Note | None = None
) -> tuple[Config, Path | None]:
    """The configuration that the words ask for, and the file it is based on. Raises ``MicrotomeError``."""
    given = one_config(parsed.positional, command)
    path = find_config(given, command="train") if given else None
    base = read_yaml(path) if path else {}
    return build(model, base, parsed.values, str(path) if path else "config", note=note), path


def one_config(positional: Sequence[str], command: str) -> str | None:
    """The one configuration file among the words, if any. Raises ``MicrotomeError`` for a second word."""
    if len(positional) > 1:
        raise MicrotomeError(
            f"{command}: takes one CONFIG.yaml, not also {positional[1]!r}; flags begin with two dashes"
        )
    return positional[0] if positional else None
