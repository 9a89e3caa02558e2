"""``microtome dictionary``: train, evaluate, convert, and try on planted data."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from microtome.cli.flags import build, parse
from microtome.cli.recipes import find_config
from microtome.cli.train import one_config
from microtome.core.config import Config, read_yaml
from microtome.core.config_keys import nearest
from microtome.core.device import say
from microtome.core.errors import MicrotomeError

ABOUT = (
    "Dictionaries (sparse autoencoders): train them on the layers of a language model, evaluate them, try"
    " an architecture on data with a known dictionary (planted), or rewrite one in another library's format"
    " (convert). `microtome dictionary train --help` lists the flags of one."
)


class Options(Config):
    """Where the run goes."""

    out_dir: Path | None = None
    """The run folder itself; left out, a new one under runs_root."""
    runs_root: Path = Path("runs")
    """The folder that run folders are made in."""
    quiet: bool = False
    """Show no progress."""


class TrainOptions(Options):
    """Where the run goes, or which one goes on."""

    resume: str | None = None
    """Carry this run on from its last checkpoint: a run folder, its name, or latest."""


class ConvertOptions(Config):
    """What to write."""

    out: Path | None = None
    """The folder to write."""
    format: str = "saelens"
    """sparsify, saelens or dictionary_learning."""
    layer: int | None = None
    """The layer, where the path holds several."""
    site: str | None = None
    """The site, where a layer has several."""


def main(arguments: Sequence[str]) -> int:
    """Do what the first word names."""
    words = list(arguments)
    if not words or words[0] in ("-h", "--help"):
        parse(["--help"], f"dictionary {'|'.join(ACTIONS)}", ABOUT, Config)
    action = words.pop(0)
    if action not in ACTIONS:
        near = nearest(action, list(ACTIONS))
        mend = f"did you mean {near}?" if near else f"choose {', '.join(ACTIONS)}"
        raise MicrotomeError(f"dictionary {action}: no such action; {mend}")
    return ACTIONS[action](words)


def train(words: Sequence[str]) -> int:
    """``microtome dictionary train``."""
    from microtome.dictionaries.train_config import DictionaryTrainConfig

    parsed = parse(
        words,
        "dictionary train [CONFIG.yaml]",
        DictionaryTrainConfig.__doc__ or "",
        TrainOptions,
        DictionaryTrainConfig,
    )
    options = parsed.options
    if options.resume is not None:
        return _resume(parsed)
    config = _config(DictionaryTrainConfig, parsed, "dictionary train")
    from microtome.core.distributed import launched_processes
    from microtome.dictionaries.train import train_dictionaries

    run = train_dictionaries(
        config,
        runs_root=options.runs_root,
        out_dir=options.out_dir,
        command=["microtome", "dictionary", "train", *words],
        show_progress=not options.quiet,
    )
    if launched_processes().main:
        _tell(run)
    return 0


def _resume(parsed: Any) -> int:
    options = parsed.options
    for extra in [*parsed.positional, *(f"--{name}" for name in parsed.values)]:
        raise MicrotomeError(f"--resume: a resumed run keeps its own configuration; leave out {extra}")
    if options.out_dir is not None:
        raise MicrotomeError("--resume: a resumed run stays in its folder; leave out --out_dir")
    from microtome.core.distributed import launched_processes
    from microtome.core.references import open_run
    from microtome.dictionaries.train import KIND, resume_dictionaries

    run = open_run(options.resume, runs_root=options.runs_root, want=KIND)
    if run.finished:
        print(f"{run.path} is finished already; nothing to do.")
        return 0
    run = resume_dictionaries(run.path, runs_root=options.runs_root, show_progress=not options.quiet)
    if launched_processes().main:
        _tell(run)
    return 0


def _tell(run: Any) -> None:
    from microtome.core.errors import CannotLoad
    from microtome.dictionaries.report import table

    with contextlib.suppress(CannotLoad):  # where it was not evaluated
        print("\n".join(table(run.load_json("results/evaluation.json")["dictionaries"])))
    print(f"Trained. Results: {run.path}")


def evaluate(words: Sequence[str]) -> int:
    """``microtome dictionary evaluate``."""
    from microtome.dictionaries.evaluate_config import DictionaryEvaluateConfig

    parsed = parse(
        words,
        "dictionary evaluate [PATH]",
        DictionaryEvaluateConfig.__doc__ or "",
        Options,
        DictionaryEvaluateConfig,
    )
    if len(parsed.positional) > 1:
        raise MicrotomeError(f"dictionary evaluate: takes one path, not also {parsed.positional[1]!r}")
    values = dict(parsed.values)
    if parsed.positional:
        values["path"] = parsed.positional[0]
    config = build(DictionaryEvaluateConfig, {}, values, "config", note=say)
    from microtome.dictionaries.evaluate import evaluate_dictionaries
    from microtome.dictionaries.report import table

    options = parsed.options
    run, result = evaluate_dictionaries(
        config,
        runs_root=options.runs_root,
        out_dir=options.out_dir,
        command=["microtome", "dictionary", "evaluate", *words],
    )
    print("\n".join(table(result.numbers)))
    print(f"Evaluated. Results: {run.path}")
    return 0


def planted(words: Sequence[str]) -> int:
    """``microtome dictionary planted``."""
    from microtome.dictionaries.train_config import DictionaryTraining

    about = (
        "Trains one dictionary on data made from a known one (1,024 random directions in 256 dimensions, 16"
        " of them in an input) and says how many directions it found."
    )
    parsed = parse(words, "dictionary planted [CONFIG.yaml]", about, Options, DictionaryTraining)
    base = {"n_features": 2048, "k": 16, "steps": 600, "batch_size": 512}
    config = _config(DictionaryTraining, parsed, "dictionary planted", base)
    from microtome.core.device import set_threads, tune_allocator
    from microtome.dictionaries.planted import PlantedData, planted_test

    set_threads(None, small=False)
    tune_allocator()
    _, numbers, warnings = planted_test(PlantedData(), config, show_progress=not parsed.options.quiet)
    for line in warnings:
        say(f"WARNING: {line}")
    for name in ("fvu", "pca_fvu", "l0", "dead", "mmcs", "mmcs_of_random_rows", "found"):
        value = numbers[name]
        print(f"  {name:<20} {'-' if value is None else format(value, '.4g')}")
    return 0


def convert(words: Sequence[str]) -> int:
    """``microtome dictionary convert``."""
    about = (
        "Rewrites a dictionary of any known format in the one of sparsify, saelens or dictionary_learning."
    )
    parsed = parse(words, "dictionary convert PATH --out FOLDER --format saelens", about, ConvertOptions)
    options = parsed.options
    if len(parsed.positional) != 1:
        raise MicrotomeError("dictionary convert: give the path of one dictionary")
    if options.out is None:
        raise MicrotomeError("dictionary convert: give the folder to write: --out FOLDER")
    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        raise MicrotomeError(f"out={str(options.out)!r}: is there already; choose another --out")
    from microtome.dictionaries.formats import open_dictionary, save_dictionary

    found = open_dictionary(parsed.positional[0], options.layer, options.site)
    save_dictionary(found.load(), options.out, options.format)
    print(f"Wrote {options.out} ({found.format} to {options.format})")
    return 0


def _config(model: type[Config], parsed: Any, command: str, base: dict[str, Any] | None = None) -> Any:
    given = one_config(parsed.positional, command)
    path = find_config(given, command="dictionary") if given else None
    values = read_yaml(path) if path else dict(base or {})
    return build(model, values, parsed.values, str(path) if path else "config", note=say)


ACTIONS = {"train": train, "evaluate": evaluate, "planted": planted, "convert": convert}
