"""The command line of a trial: W&B's macros filled in, our own commands in place of old scripts."""

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from microtome.core.config import Config, Note
from microtome.core.config_keys import nearest
from microtome.core.errors import MicrotomeError
from microtome.sweep.parameters import Space

INTERPRETER = "${interpreter}"
DEFAULT = ("${env}", INTERPRETER, "${program}", "${args}")
OUT_FLAGS = {"decompose": "--out_dir", "train": "--out_dir", "magnitude": "--output_dir"}
MACROS = (
    *("env", "interpreter", "program", "args", "args_no_equals", "args_no_hyphens", "args_no_boolean_flags"),
    *("args_json", "args_json_file"),
)
_ENVIRONMENT = re.compile(r"\$\{envvar:([A-Za-z0-9_]*)\}")


@runtime_checkable
class Programs(Protocol):
    """What the command line knows of our commands and recipes; handed in, as it stands a floor above."""

    def resolve(self, program: str) -> tuple[str, ...] | None:
        """The words of our command that a program or an old script stands for; None for other programs."""
        ...

    def find_config(self, text: str) -> Path:
        """The file or recipe that a configuration's name stands for. Raises ``MicrotomeError``."""
        ...

    def read(
        self, words: Sequence[str], parameters: Mapping[str, Any], note: Note
    ) -> "tuple[Config, Path | None] | None":
        """The configuration that our command would run, and its file; None where that is not known."""
        ...


@dataclass(frozen=True)
class Template:
    """A command line before a trial's parameters are filled in."""

    words: tuple[str, ...]
    program: tuple[str, ...] = ()
    """What stands for ``${program}``."""
    ours: tuple[str, ...] = ()
    """The words of our command, such as ``("decompose",)``; empty for other programs."""
    configs: tuple[Path, ...] = ()
    """The configuration files among the words."""

    @property
    def arguments(self) -> tuple[str, ...]:
        """Our command's own words that are the same in every trial."""
        after = self.words[self.words.index("${program}") + 1 :] if self.ours else ()
        return (*self.ours[1:], *(word for word in after if not _macro(word)))


def build_template(
    program: str, command: Sequence[object] | None, programs: Programs, folder: Path, working: Path
) -> Template:
    """Read ``program`` and ``command`` of a sweep file that stands in ``folder``.

    Old script names become our commands, and their relative configuration files are looked for in the
    working folder, beside the sweep file and above it, then among the packaged recipes. Raises
    ``MicrotomeError`` for an unknown macro and for a program that is not there.
    """
    words = [str(word) for word in (command or DEFAULT)]
    for word in words:
        name = _macro(word)
        if name and name not in MACROS:
            near = nearest(name, list(MACROS))
            mend = f"did you mean ${{{near}}}?" if near else "use " + ", ".join(f"${{{m}}}" for m in MACROS)
            raise MicrotomeError(f"command: {word}: unknown macro; {mend}, or ${{envvar:NAME}}")
    ours, place, after = _ours(program, words, programs)
    if not ours:
        return Template(tuple(words), (_script(program, folder, working),) if program else ())
    before = [word for word in words[:place] if word == "${env}" or ("=" in word and not _macro(word))]
    rest, configs = [], []
    for word in words[after:]:
        if word.endswith((".yaml", ".yml")) and not word.startswith("-"):
            path = _config_file(word, programs, folder, working)
            configs.append(path)
            word = str(path)
        rest.append(word)
    whole = (*before, INTERPRETER, "-m", "microtome", ours[0], "${program}", *rest)
    return Template(whole, ours[1:], ours, tuple(configs))


def fill(
    template: Template,
    values: Mapping[str, Any],
    space: Space,
    json_file: Path,
    interpreter: str = INTERPRETER,
) -> list[str]:
    """The words to run for one trial's parameters (dotted name -> value).

    Our commands read the parameters from the file that W&B's agent would write, whatever macros there are.
    """
    lists = argument_lists(space.nested(values))
    lists["args_json_file"] = [str(json_file)]
    if template.ours:
        lists = {name: [] for name in lists}
    lists["env"] = [] if os.name == "nt" else ["/usr/bin/env"]
    lists["interpreter"] = [interpreter]
    lists["program"] = list(template.program)
    words: list[str] = []
    for word in template.words:
        name = _macro(word)
        words += lists[name] if name else [_ENVIRONMENT.sub(_variable, word)]
    return words


def argument_lists(values: Mapping[str, Any]) -> dict[str, list[str]]:
    """The parameters in each of the forms that W&B's macros have."""
    texts = {name: f"{name}={value}" for name, value in values.items()}
    without_booleans = [
        f"--{name}" if value is True else f"--{texts[name]}"
        for name, value in values.items()
        if value is not False
    ]
    return {
        "args": [f"--{text}" for text in texts.values()],
        "args_no_equals": [word for name, value in values.items() for word in (f"--{name}", str(value))],
        "args_no_hyphens": list(texts.values()),
        "args_no_boolean_flags": without_booleans,
        "args_json": [json.dumps(dict(values))],
    }


def with_interpreter(words: Sequence[str]) -> list[str]:
    """The words with this process's Python where ``${interpreter}`` stands."""
    return [sys.executable if word == INTERPRETER else word for word in words]


def at_recipe(template: Template, path: Path) -> Template:
    """The same command with a configuration file as its first argument."""
    return replace(template, words=(*template.words, str(path)), configs=(*template.configs, path))


def _ours(program: str, words: Sequence[str], programs: Programs) -> tuple[tuple[str, ...], int, int]:
    """The words of our command, and the span of the words that name it; nothing for other programs."""
    for place, word in enumerate(words):
        if word == "${program}":
            found = programs.resolve(program)
            return (found, place, place + 1) if found else ((), 0, 0)
        if word.endswith(".py") and (found := programs.resolve(word)):
            return found, place, place + 1
        if word == "microtome" and place + 1 < len(words) and (found := programs.resolve(words[place + 1])):
            return found, place, place + 2
    return (), 0, 0


def _script(program: str, folder: Path, working: Path) -> str:
    """The program as it is run from the working folder; beside the sweep file when it is not there."""
    if not program.endswith(".py") and "/" not in program:
        return program
    for place in (working, folder):
        if (place / program).is_file():
            return program if place == working else str((place / program).resolve())
    raise MicrotomeError(
        f"program={program!r}: no such file in {working} or beside the sweep file; check the path"
    )


def _config_file(text: str, programs: Programs, folder: Path, working: Path) -> Path:
    for place in (working, folder, *folder.resolve().parents):
        if (place / text).is_file():
            return (place / text).resolve()
    return programs.find_config(text).resolve()


def _macro(word: str) -> str:
    inside = word.startswith("${") and word.endswith("}") and not _ENVIRONMENT.search(word)
    return word[2:-1] if inside else ""


def _variable(match: re.Match[str]) -> str:
    return os.environ.get(match[1], match[1])
