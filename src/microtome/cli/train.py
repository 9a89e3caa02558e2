"""``microtome train``: fit a target network."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from microtome.cli.flags import Parsed, build, parse
from microtome.cli.recipes import find_config
from microtome.cli.sweep_parameters import sweep_parameters
from microtome.core.config import Config, Note, read_yaml
from microtome.core.config_keys import nearest
from microtome.core.device import say, tune_allocator
from microtome.core.errors import MicrotomeError
from microtome.core.runs import RunFolder

# Subject -> (configuration in microtome.training.config, module and function that train it).
SUBJECTS: dict[str, tuple[str, str, str]] = {
    "tms": ("TMSTrainConfig", "microtome.training.toy", "train_tms"),
    "resid-mlp": ("ResidMLPTrainConfig", "microtome.training.toy", "train_resid_mlp"),
    "digits": ("DigitsTrainConfig", "microtome.training.classify", "train_digits"),
    "induction": ("InductionTrainConfig", "microtome.training.induction", "train_induction"),
    "few-shot": ("FewShotTrainConfig", "microtome.training.few_shot", "train_few_shot"),
    "language-model": ("LanguageModelTrainConfig", "microtome.training.language", "train_language_model"),
}
# Names that other code gives the subjects.
ALIASES = {"ih": "induction", "induction-head": "induction"}
# Subjects whose runs can be carried on, and the function of the same module that does so.
RESUMED = {"language-model": "resume_language_model"}
ABOUT = (
    "Trains a target and saves it in a run folder: tms (Toy Model of Superposition), resid-mlp (residual"
    " MLP), digits (a classifier of scikit-learn's handwritten digits), induction (an attention-only"
    " transformer that carries on what repeats), few-shot (a meta-learned or plainly"
    " trained network of images) or language-model (a small Llama or Qwen with its tokenizer, on text)."
    " `microtome train tms --help` lists the flags of one."
)


class Options(Config):
    """Where the run goes."""

    out_dir: Path | None = None
    """The run folder itself; left out, a new one under runs_root."""
    runs_root: Path = Path("runs")
    """The folder that run folders are made in."""
    quiet: bool = False
    """Show no progress."""


class ResumableOptions(Options):
    """Where the run goes, or which one goes on."""

    resume: str | None = None
    """Carry this run on from its last checkpoint: a run folder, its name, or latest."""


def main(arguments: Sequence[str]) -> int:
    """Train the subject that the first word names."""
    words = list(arguments)
    if not words or words[0] in ("-h", "--help"):
        parse(["--help"], f"train {'|'.join(SUBJECTS)} [CONFIG.yaml]", ABOUT, Options)
    subject = words.pop(0).replace("_", "-")
    subject = ALIASES.get(subject, subject)
    if subject not in SUBJECTS:
        near = nearest(subject, list(SUBJECTS))
        mend = f"did you mean {near}?" if near else f"choose {', '.join(SUBJECTS)}"
        raise MicrotomeError(f"train {subject}: no such target; {mend}")
    _, module_name, function_name = SUBJECTS[subject]
    model = model_of(subject)
    options = ResumableOptions if subject in RESUMED else Options
    parsed = parse(words, f"train {subject} [CONFIG.yaml]", model.__doc__ or "", options, model)
    if getattr(parsed.options, "resume", None) is not None:
        return _resume(subject, parsed)
    parsed.values |= sweep_parameters()
    config, _ = configuration(model, parsed, f"train {subject}", note=say)
    train = getattr(importlib.import_module(module_name), function_name)
    tune_allocator()
    run = train(
        config,
        runs_root=parsed.options.runs_root,
        out_dir=parsed.options.out_dir,
        command=["microtome", "train", *arguments],
        show_progress=not parsed.options.quiet,
    )
    _say_what(run)
    return 0


def _resume(subject: str, parsed: Parsed) -> int:
    """Carry a stopped training on."""
    options = parsed.options
    for extra in [*parsed.positional, *(f"--{name}" for name in parsed.values)]:
        raise MicrotomeError(f"--resume: a resumed run keeps its own configuration; leave out {extra}")
    if options.out_dir is not None:
        raise MicrotomeError("--resume: a resumed run stays in its folder; leave out --out_dir")
    from microtome.core.references import open_run

    run = open_run(options.resume, runs_root=options.runs_root, want=f"train-{subject}")
    if run.kind != f"train-{subject}":
        raise MicrotomeError(f"{run.path}: a {run.kind} run; give one of train-{subject}")
    if run.finished:
        print(f"{run.path} is finished already; nothing to do.")
        return 0
    resume = getattr(importlib.import_module(SUBJECTS[subject][1]), RESUMED[subject])
    tune_allocator()
    run = resume(run.path, show_progress=not options.quiet)
    _say_what(run)
    return 0


# What the end of a run tells of its summary.
TOLD = {
    "induction_accuracy": "accuracy where what comes next has been seen",
    "held_out_loss": "held-out loss, nats a token",
    "held_out_bits_per_byte": "held-out loss, bits a byte",
    "unigram_loss": "of token frequencies alone, nats a token",
    "tokens_per_second": "tokens a second",
}


def _say_what(run: RunFolder) -> None:
    for shots, found in run.summary.get("best", {}).items():
        _say_accuracy(int(shots), found)
    for name, words in TOLD.items():
        if name in run.summary:
            print(f"  {words:<42} {run.summary[name]:,.4g}")
    print(f"Trained. Results: {run.path}")


def _say_accuracy(shots: int, found: Mapping[str, Any]) -> None:
    told = [f"{found['trained']['mean']:.1%} [{found['trained']['low']:.1%}, {found['trained']['high']:.1%}]"]
    if "untrained" in found:
        told.append(f"untrained {found['untrained']['mean']:.1%}")
    adapted = f"accuracy on new classes, {shots} a class"
    print(f"  {adapted:<42} {', '.join(told)} ({found['steps']} steps, {found['head']} head)")


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
