"""``microtome decompose``: take a target's weights apart, or carry a stopped run on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from microtome.cli.flags import build, parse
from microtome.cli.help import command_help
from microtome.cli.recipes import find_config, recipes
from microtome.core.config import Config, read_yaml
from microtome.core.config_keys import nearest
from microtome.core.device import say
from microtome.core.errors import MicrotomeError

USAGE = "microtome decompose CONFIG.yaml|RECIPE [--flag value ...]   or   microtome decompose --resume RUN"
ABOUT = (
    "Decomposes a trained target by SPD (stochastic) or APD (attribution-based parameter decomposition). The"
    " configuration's fields tell the method; --method says it where they do not."
)
METHODS = ("spd", "apd")


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
    """Decompose as the words say."""
    words = list(arguments)
    chosen = _given_method(words)
    if any(word in ("-h", "--help") for word in words):
        print(_help(chosen))
        return 0
    resumed = _resume(words)
    if resumed is not None:
        return resumed
    path, base = _base(words, chosen)
    method = chosen or _method_of(base, words)
    model = _model(method)
    parsed = parse(words, model, Options)
    _one_file(parsed.positional)
    values = {**parsed.values, "method": method}
    config = build(model, base, values, str(path) if path else "config", note=say)
    options = Options.from_mapping(parsed.options)

    from microtome.decomposition.decompose import run_config

    run = run_config(
        config,
        runs_root=options.runs_root,
        out_dir=options.out_dir,
        command=["microtome", "decompose", *arguments],
        progress=not options.quiet,
    )
    _say_where(run.path)
    return 0


def _say_where(path: Path) -> None:
    print(f"Decomposed. Results: {path}")
    print(f"Draw its pictures again with: microtome interpret {path}")


def _resume(words: Sequence[str]) -> int | None:
    """Carry a run on when the words ask for that; None when they do not."""
    if not any(word == "--resume" or word.startswith("--resume=") for word in words):
        return None
    for word in words:
        name = word.split("=", 1)[0]
        if name.startswith("--") and name[2:].replace("-", "_") not in Options.model_fields:
            raise MicrotomeError(f"{name}: a resumed run keeps its own configuration; leave this flag out")
    parsed = parse(words, None, Options)
    if parsed.positional:
        raise MicrotomeError(
            f"--resume: a resumed run keeps its own configuration; leave out {parsed.positional[0]}"
        )
    options = Options.from_mapping(parsed.options)
    if options.out_dir is not None:
        raise MicrotomeError("--resume: a resumed run stays in its folder; leave out --out_dir")
    if options.resume is None:
        raise MicrotomeError("--resume: needs a run folder, its name, or latest")
    from microtome.core.references import open_run

    run = open_run(options.resume, runs_root=options.runs_root, want="decompose")
    if not run.kind.startswith("decompose"):
        raise MicrotomeError(f"{run.path}: a {run.kind} run has nothing to resume; start it again instead")
    if run.finished:
        print(f"{run.path} is finished already; nothing to do.")
        return 0
    from microtome.decomposition.decompose import resume

    _say_where(resume(run.path, progress=not options.quiet).path)
    return 0


def _base(words: Sequence[str], method: str | None) -> tuple[Path | None, dict[str, Any]]:
    """The configuration file that the words name, and what it says."""
    model = _model(method) if method else None
    for candidate in [model] if model else [_model(name) for name in METHODS]:
        try:
            positional = parse(words, candidate, Options).positional
        except MicrotomeError:
            continue  # flags of the other method, or a mistake that is told once the method is known
        _one_file(positional)
        if not positional:
            return None, {}
        path = find_config(positional[0])
        return path, read_yaml(path)
    plain = [word for word in words[:1] if not word.startswith("-")]
    if not plain:
        return None, {}
    path = find_config(plain[0])
    return path, read_yaml(path)


def _one_file(positional: Sequence[str]) -> None:
    if len(positional) > 1:
        second = positional[1]
        if second.endswith((".yaml", ".yml")):
            raise MicrotomeError(
                f"{second}: a sweep file as second argument is not read by decompose; run one configuration"
                " at a time, n_seeds decomposes several seeds at once"
            )
        raise MicrotomeError(f"decompose: takes one CONFIG.yaml, not also {second!r}")


def _given_method(words: list[str]) -> str | None:
    """The value of --method, if the words give it."""
    for index, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name != "--method":
            continue
        value = value if equals else (words[index + 1] if index + 1 < len(words) else "")
        method = value.lower()
        if method not in METHODS:
            near = nearest(method, list(METHODS))
            mend = f"did you mean {near}?" if near else f"choose {' or '.join(METHODS)}"
            raise MicrotomeError(f"method={value!r}: unknown method; {mend}")
        return method
    return None


def _method_of(base: Mapping[str, Any], words: Sequence[str]) -> str:
    if not base and not words:
        names = ", ".join(recipes()) or "none are packaged"
        raise MicrotomeError(f"decompose: needs a CONFIG.yaml or a recipe ({names})")
    if not base:
        return "spd"
    from microtome.decomposition.config import method_of

    return method_of(base)


def _model(method: str) -> type[Config]:
    if method == "apd":
        from microtome.decomposition.apd_config import APDConfig

        return APDConfig
    from microtome.decomposition.spd_config import SPDConfig

    return SPDConfig


def _help(method: str | None) -> str:
    names = [method] if method else list(METHODS)
    about = ABOUT + ("" if method else " `--method apd --help` lists one method's flags only.")
    about += f"\n\nRecipes: {', '.join(recipes()) or 'none'}."
    headings = {f"configuration of {name.upper()}": _model(name) for name in names}
    return command_help(USAGE, about, Options, headings)
