"""``microtome gradients``: which activations and which dictionary features move a language model's loss."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from microtome.cli.flags import Parsed, build, parse
from microtome.cli.recipes import find_config
from microtome.cli.train import one_config
from microtome.core.config import Config, read_yaml
from microtome.core.config_keys import nearest
from microtome.core.device import say
from microtome.core.errors import MicrotomeError
from microtome.gradients.config import FeaturesConfig, GradientConfig, LayersConfig

ABOUT = (
    "Which layer activations (layers) or dictionary features (features) move a language model's loss, for"
    " all layers by one forward and one backward pass. `microtome gradients layers --help` lists the flags of"
    " one; compare A B sets two runs against each other, report RUN writes a page, --resume RUN carries on."
)
MODELS: dict[str, type[GradientConfig]] = {"layers": LayersConfig, "features": FeaturesConfig}
TASKS = (*MODELS, "compare", "report")


class Options(Config):
    """Where model runs are looked for, and which analysis goes on."""

    resume: str | None = None
    """Carry this stopped run on: its folder."""
    runs_root: Path = Path("runs")
    """The folder that `latest` and names of model and dictionary runs are looked for in."""
    quiet: bool = False
    """Show no progress."""


class CompareOptions(Config):
    """What is compared, and where it is written."""

    by: str | None = None
    """The score: attribution, mean, mean_abs, ...; null takes the best that both have."""
    out_dir: Path | None = None
    """The folder for the table and the picture; null makes a new one in the working folder."""
    top: int = 20
    """Values listed."""


class ReportOptions(Config):
    """Where the page goes."""

    out: Path | None = None
    """The file; null writes report.html into the run."""


def main(arguments: Sequence[str]) -> int:
    """Run the task that the first word names."""
    words = list(arguments)
    if not words or words[0] in ("-h", "--help"):
        parse(["--help"], "gradients layers|features|compare|report", ABOUT, Options)
    if words[0].split("=")[0] == "--resume":
        return _analyse("features", words, arguments)
    task = words.pop(0)
    if task in MODELS:
        return _analyse(task, words, arguments)
    if task == "compare":
        return _compare(words)
    if task == "report":
        return _report(words)
    near = nearest(task, list(TASKS))
    mend = f"did you mean {near}?" if near else f"choose {', '.join(TASKS)}"
    raise MicrotomeError(f"gradients {task}: no such task; {mend}")


def _analyse(task: str, words: list[str], arguments: Sequence[str]) -> int:
    model = MODELS[task]
    usage = f"gradients {task} [CONFIG.yaml]"
    parsed = parse(spelled(words), usage, model.__doc__ or "", Options, model)
    how: dict[str, Any] = {
        "runs_root": parsed.options.runs_root,
        "show_progress": not parsed.options.quiet,
        "command": ["microtome", "gradients", *arguments],
    }
    if parsed.options.resume is not None:
        finished = _resumed(parsed, how)
    else:
        given = one_config(parsed.positional, f"gradients {task}")
        path = find_config(given, command="gradients") if given else None
        base = read_yaml(path) if path else {}
        config = build(model, base, parsed.values, str(path) if path else "config", note=say)
        from microtome.gradients.run import run

        finished = run(config, **how)
    if finished is not None:
        from microtome.gradients.told import told

        print("\n".join(told(finished)))
    return 0


def _resumed(parsed: Parsed, how: dict[str, Any]) -> Any:
    for extra in [*parsed.positional, *(f"--{name}" for name in parsed.values)]:
        raise MicrotomeError(f"--resume: a resumed run keeps its own settings; leave out {extra}")
    from microtome.core.references import open_run
    from microtome.gradients.run import resume

    folder = Path(parsed.options.resume)
    root = Path() if parsed.options.resume == "latest" else parsed.options.runs_root
    run = open_run(folder if folder.exists() else parsed.options.resume, runs_root=root, want="gradients")
    return resume(run.path, **how)


def spelled(words: Sequence[str]) -> list[str]:
    """The words in our spelling: ``--normalize_gradients`` with or without a value, ``--validate N``."""
    result: list[str] = []
    for place, word in enumerate(words):
        flag, equals, value = word.partition("=")
        name = flag.replace("-", "_").lstrip("_") if flag.startswith("--") else ""
        if name in ("normalize_gradients", "normalize_mode", "no_normalize_gradients"):
            following = words[place + 1] if place + 1 < len(words) else ""
            # A word that is no flag and no file is a value, if a wrong one: let it be refused as such.
            is_value = (
                following and not following.startswith("-") and not following.endswith((".yaml", ".yml"))
            )
            if name.startswith("no_"):
                result.append("--normalize_gradients=none")
            elif equals or is_value:
                result.append(f"--normalize_gradients{equals}{value}")
            else:
                result.append("--normalize_gradients=sum_abs")
        elif name == "validate":
            result.append(f"--validate_top{equals}{value}")
        else:
            result.append(word)
    return result


def _compare(words: list[str]) -> int:
    parsed = parse(words, "gradients compare A B", "Compares two gradient analyses.", CompareOptions)
    if len(parsed.positional) != 2:
        raise MicrotomeError("gradients compare: takes two results, each a folder or an npz file")
    from microtome.gradients.comparison import compare_runs

    comparison = compare_runs(*parsed.positional, by=parsed.options.by, out_dir=parsed.options.out_dir)
    print("\n".join(comparison.told(parsed.options.top)))
    return 0


def _report(words: list[str]) -> int:
    about = "Writes one self-contained page about a gradient analysis."
    parsed = parse(words, "gradients report RUN", about, ReportOptions)
    if len(parsed.positional) != 1:
        raise MicrotomeError("gradients report: takes one run folder, or latest")
    from microtome.explorer.gradients import write_page

    print(f"Wrote {write_page(parsed.positional[0], parsed.options.out)}")
    return 0
