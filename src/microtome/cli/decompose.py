"""``microtome decompose``: take a target's weights apart, carry a stopped run on, or ask what one found."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microtome.cli.flags import Parsed, build, fields_of, parse
from microtome.cli.recipes import find_config, recipes
from microtome.cli.sweep_parameters import sweep_parameters
from microtome.core.config import Config, Note, read_yaml
from microtome.core.config_keys import nearest
from microtome.core.device import say
from microtome.core.distributed import launched_processes
from microtome.core.errors import MicrotomeError
from microtome.core.runs import RunFolder

if TYPE_CHECKING:
    from microtome.decomposition.config import DecompositionConfig

USAGE = "decompose CONFIG.yaml|RECIPE|--resume RUN"
ABOUT = (
    "Decomposes a trained target by SPD (stochastic) or APD (attribution-based parameter decomposition). The"
    " configuration's fields tell the method; --method says it where they do not. These are the flags of {}."
    " `--method {} --help` lists those of the other method. Recipes: {}. What a finished run found:"
    " `microtome decompose evaluate|examples|attributions|cluster|ablate RUN`."
)

# What can be asked of a finished run: first word -> module whose main(arguments) answers.
TASKS: dict[str, str] = {
    "evaluate": "microtome.cli.decompose_evaluate",
    "examples": "microtome.cli.decompose_examples",
    "attributions": "microtome.cli.decompose_attributions",
    "cluster": "microtome.cli.decompose_cluster",
    "ablate": "microtome.cli.decompose_ablate",
}


class Options(Config):
    """Where the run goes, or which one goes on."""

    out_dir: Path | None = None
    """The run folder itself; left out, a new one under runs_root."""
    runs_root: Path = Path("runs")
    """The folder that run folders are made in, and that `latest` looks in."""
    resume: str | None = None
    """Carry this run on from its last checkpoint: a run folder, its name, or latest."""
    quiet: bool = False
    """Show no progress."""


def main(arguments: Sequence[str]) -> int:
    """Decompose as the words say, or answer what the first word asks of a run."""
    if arguments and arguments[0] in TASKS:
        return int(importlib.import_module(TASKS[arguments[0]]).main(list(arguments[1:])) or 0)
    words = [word for word in arguments if word not in ("-h", "--help")]
    parsed = read_words(words)
    if parsed.options.resume is not None:
        return _resume(parsed)
    parsed.values |= sweep_parameters()
    if len(words) < len(arguments):
        _help(parsed)
    config, path = configuration(parsed, note=say)

    from microtome.decomposition.decompose import run_config

    run = run_config(
        config,
        runs_root=parsed.options.runs_root,
        out_dir=parsed.options.out_dir,
        relative_to=path.parent if path else None,
        command=["microtome", "decompose", *arguments],
        progress=not parsed.options.quiet,
    )
    _say_what(run)
    return 0


def read_words(words: Sequence[str]) -> Parsed:
    """The words after the command, told apart. Raises ``MicrotomeError``."""
    parsed = parse(words, USAGE, "", Options, *_models().values())
    _one_file(parsed.positional)
    return parsed


def configuration(parsed: Parsed, note: Note | None = None) -> "tuple[DecompositionConfig, Path | None]":
    """The configuration that the words ask for, and the file it is based on. Raises ``MicrotomeError``."""
    path, base, method = _base(parsed)
    if path is None and not parsed.values:
        names = ", ".join(recipes(command="decompose")) or "none are packaged"
        raise MicrotomeError(f"decompose: needs a CONFIG.yaml or a recipe ({names})")
    model = _models()[method]
    values = {model.renamed.get(name, name): value for name, value in parsed.values.items()}
    for name in values:
        if name not in fields_of(model):
            near = nearest(name, list(fields_of(model)))
            mend = f"did you mean --{near}?" if near else "leave it out, or see --help"
            raise MicrotomeError(f"--{name}: not a flag of {method.upper()}; {mend}")
    flags = {**values, "method": method}
    return build(model, base, flags, str(path) if path else "config", note=note), path


def _models() -> "dict[str, type[DecompositionConfig]]":
    from microtome.decomposition.apd_config import APDConfig
    from microtome.decomposition.spd_config import SPDConfig

    return {"spd": SPDConfig, "apd": APDConfig}


def _base(parsed: Parsed) -> tuple[Path | None, dict[str, Any], str]:
    """The file, what stands in it, and the method that it or the flags are for."""
    from microtome.decomposition.config import method_of

    path = find_config(parsed.positional[0], command="decompose") if parsed.positional else None
    base = read_yaml(path) if path else {}
    given = parsed.values.get("method", base.get("method"))
    return path, base, method_of({**(base or parsed.values), "method": given})


def _help(parsed: Parsed) -> None:
    method = _base(parsed)[2]
    other = "apd" if method == "spd" else "spd"
    about = ABOUT.format(method.upper(), other, ", ".join(recipes(command="decompose")) or "none")
    parse(["--help"], USAGE, about, Options, _models()[method])


# What the end of a run tells of its summary, one value a seed; the summary itself holds more.
TOLD = (
    "recovered_mechanisms",
    "mmcs",
    "ml2r",
    "identity_error",
    "alive",
    "l0",
    "cross_entropy_target",
    "cross_entropy_causal_importance",
    "cross_entropy_ablated",
    "ce_recovered_causal_importance",
    "accuracy_target",
    "accuracy_all_components",
    "accuracy_causal_importance",
    "output_error_all_components",
    "output_error_causal_importance",
    "output_error_topk",
)


def _say_what(run: RunFolder) -> None:
    if not launched_processes().main:  # of several processes the first one speaks
        return
    print("One value a seed:")
    for name in TOLD:
        found = run.summary.get(name)
        for site, values in (found if isinstance(found, dict) else {"": found}).items():
            if isinstance(values, list):
                print(f"  {f'{name} {site}'.strip():<34} {', '.join(map(_number, values))}")
    print(f"Decomposed. Results: {run.path}")
    print(f"Can it be trusted, check by check: microtome decompose evaluate {run.path}")
    print(f"Draw its pictures again with: microtome interpret {run.path}")


def _number(value: float | int | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"


def _resume(parsed: Parsed) -> int:
    """Carry a run on."""
    options = parsed.options
    for extra in [*parsed.positional, *(f"--{name}" for name in parsed.values)]:
        raise MicrotomeError(f"--resume: a resumed run keeps its own configuration; leave out {extra}")
    if options.out_dir is not None:
        raise MicrotomeError("--resume: a resumed run stays in its folder; leave out --out_dir")
    from microtome.core.references import open_run

    run = open_run(options.resume, runs_root=options.runs_root, want="decompose")
    if not run.kind.startswith("decompose"):
        raise MicrotomeError(f"{run.path}: a {run.kind} run has nothing to resume; start it again instead")
    if run.finished:
        print(f"{run.path} is finished already; nothing to do.")
        return 0
    from microtome.decomposition.decompose import resume

    _say_what(resume(run.path, progress=not options.quiet))
    return 0


def _one_file(positional: Sequence[str]) -> None:
    if len(positional) > 1:
        second = positional[1]
        if second.endswith((".yaml", ".yml")):
            raise MicrotomeError(
                f"{second}: a sweep file as second argument is not read by decompose; run one configuration"
                " at a time, n_seeds decomposes several seeds at once"
            )
        raise MicrotomeError(f"decompose: takes one CONFIG.yaml, not also {second!r}")
