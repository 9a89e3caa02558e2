"""The words after a command, read by tyro against the fields of configurations."""

import contextlib
import io
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypedDict, Union

import tyro
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from tyro.constructors import ConstructorRegistry, PrimitiveTypeInfo, UnsupportedTypeAnnotationError

from microtome.core.config import Config, Note, plain_kinds
from microtome.core.config_keys import (
    field_annotation,
    is_list_of_models,
    migrate,
    models_in,
    nearest,
    normalise,
)
from microtome.core.errors import MicrotomeError

NULLS = ("none", "null", "~")
BOOLEANS = ("true", "false", "yes", "no", "on", "off", "1", "0")
Entries = list[tuple[FieldInfo, Any]]  # the fields that share a flag, each with its default


@dataclass
class Parsed:
    """The words of a command line, told apart."""

    positional: list[str]
    values: dict[str, Any]  # dotted key of the configuration -> value
    options: Any  # the command's own


def parse(
    words: Sequence[str], usage: str, about: str, options: type[Config], *configs: type[Config]
) -> Parsed:
    """Read the words after a command; tyro prints the page and leaves on ``--help``.

    Flags named in ``options`` belong to the command (where to write, what to resume), all others to
    ``configs``. Only what was given is in ``values``, not yet checked. Raises ``MicrotomeError`` for an
    unknown flag (with the nearest known one) and for a missing value.
    """
    fields = fields_of(options, *configs)
    flags = {name: _flag(entries) for name, entries in fields.items()}
    Flags: Any = TypedDict("Flags", flags, total=False)  # pyright: ignore
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            given, rest = tyro.cli(
                Flags,
                prog=f"microtome {usage}",
                description=about,
                args=_with_values(words, fields),
                use_underscores=True,
                return_unknown_args=True,
            )
    except SystemExit as end:
        if not end.code:
            raise
        raise MicrotomeError(_one_line(told.getvalue())) from None
    for word in rest:
        if word.startswith("-"):
            raise _unknown_flag(word, list(fields))
    own = {name: given.pop(name) for name in options.model_fields if name in given}
    return Parsed(rest, given, options.from_mapping(own))


def build(
    model: type[Config],
    base: Mapping[str, Any],
    flags: Mapping[str, Any],
    source: str,
    note: Note | None = None,
) -> Any:
    """The configuration of a base mapping with dotted flags on top. Raises ``MicrotomeError`` in one line.

    A flag inside a nested configuration that ``base`` leaves out changes that one field of its default.
    """
    # Old keys of the file first, so that a flag wins over the old name of its field too.
    values = migrate(model, normalise(model, base), source, note or (lambda _: None))
    stands_at = getattr(model, "stands_at", lambda _values, dotted: dotted)
    for dotted, value in flags.items():
        *parents, last = stands_at(values, dotted).split(".")
        holder: Any = values
        start: Any = model.model_construct()
        for part in parents:
            if part.isdigit():  # a place in a list of configurations
                holder = holder[int(part)]
                continue
            start = getattr(start, part, None)
            if holder.get(part) is None:
                holder[part] = start.as_dict() if isinstance(start, Config) else {}
            if is_list_of_models(field_annotation(model, part)) and isinstance(holder[part], list):
                holder[part] = [dict(entry) for entry in holder[part]]
                holder = holder[part]
                continue
            if not isinstance(holder[part], Mapping):
                raise MicrotomeError(f"{part}={holder[part]!r}: holds no fields, so --{dotted} cannot be set")
            holder[part] = dict(holder[part])
            holder = holder[part]
        holder[last] = value
    return model.from_mapping(values, source=source, note=note)


def fields_of(*models: type[BaseModel], prefix: str = "", start: Any = None) -> dict[str, Entries]:
    """Every flag, dotted; configurations that may stand in each other's place share theirs."""
    flags: dict[str, Entries] = {}
    for model in models:
        for name, field in model.model_fields.items():
            default = getattr(start, name, field.get_default(call_default_factory=True))
            nested = [] if is_list_of_models(field.annotation) else models_in(field.annotation)
            found = fields_of(*nested, prefix=f"{prefix}{name}.", start=default) if nested else {}
            for flag, entries in (found or {prefix + name: [(field, default)]}).items():
                flags.setdefault(flag, []).extend(entries)
    return flags


def _flag(entries: Entries) -> Any:
    """The flag as tyro takes it: its own type names, values left for the configuration to check."""
    field, default = entries[0]
    if is_list_of_models(field.annotation):
        return _list_flag(field)
    annotation: Any = Union[tuple(entry.annotation for entry, _ in entries)]  # noqa: UP007
    spec = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(annotation, set()))
    assert not isinstance(spec, UnsupportedTypeAnnotationError)
    hint = "(required)" if field.is_required() else f"(default: {' '.join(spec.str_from_instance(default))})"
    reader = replace(
        spec,
        instance_from_str=partial(_value, spec.nargs, plain_kinds(annotation)),
        metavar="[true|false]" if annotation is bool else spec.metavar,
        choices=None,
    )
    return Annotated[str, reader, tyro.conf.arg(help=field.description, help_behavior_hint=hint)]


def _list_flag(field: FieldInfo) -> Any:
    """A list of configurations is one flag, whose value is written as in a YAML file."""
    spec = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(str, set()))
    assert not isinstance(spec, UnsupportedTypeAnnotationError)
    reader = replace(spec, instance_from_str=_listed, metavar="YAML")
    hint = "(default: none)"
    return Annotated[str, reader, tyro.conf.arg(help=field.description, help_behavior_hint=hint)]


def _listed(words: list[str]) -> Any:
    if words and words[0].lower() in NULLS:
        return None
    found = _yaml(words[0]) if words else None
    if not isinstance(found, list) or not all(isinstance(part, Mapping) for part in found):
        raise ValueError("needs a YAML list of mappings in quotes, such as '[{key: value}, {key: value}]'")
    return found


def _value(nargs: Any, kinds: set[Any], words: list[str]) -> Any:
    """What the words after a flag stand for: text, or what YAML makes of it; lists are ``4 5`` or ``4,5``."""
    if not words:
        raise ValueError("needs a value")
    if type(None) in kinds and words[0] not in kinds and words[0].lower() in NULLS:
        return None
    if nargs == "*" and len(words) == 1:
        if words[0].startswith("["):
            return _yaml(words[0])
        words = re.split(r",(?![^()]*\))", words[0])  # not inside package.module:Class(a=1,b=2)
    is_text = kinds & {str, Path} or any(isinstance(kind, str) for kind in kinds)
    values = words if is_text else [_yaml(word) for word in words]
    return values[0] if nargs == 1 else values


def _yaml(word: str) -> Any:
    try:
        return yaml.safe_load(word)
    except yaml.YAMLError:
        return word  # the configuration says what it wants instead


def _with_values(words: Sequence[str], fields: Mapping[str, Entries]) -> list[str]:
    """Switches need no value: ``--quiet`` is ``--quiet=true``, ``--no-quiet`` is ``--quiet=false``."""
    switches = {name for name, ((field, _), *_) in fields.items() if field.annotation is bool}
    result = []
    for word, following in itertools.zip_longest(words, words[1:], fillvalue=""):
        name = word.removeprefix("--").replace("-", "_") if word.startswith("--") else ""
        if name in switches and following.lower() not in BOOLEANS:
            result.append(f"{word}=true")
        elif name.removeprefix("no_") in switches - {name}:
            result.append(f"--{name.removeprefix('no_')}=false")
        else:
            result.append(word)
    return result


def _unknown_flag(word: str, known: list[str]) -> MicrotomeError:
    flag = word.split("=", 1)[0]
    if not flag.startswith("--"):
        return MicrotomeError(f"{flag}: flags begin with two dashes; see --help")
    key = flag[2:].replace("-", "_")
    near = [name for name in known if name.split(".")[-1] == key] or [nearest(key, known)]
    mend = f"did you mean --{near[0]}?" if near[0] else "--help lists the flags"
    return MicrotomeError(f"{flag}: unknown flag; {mend}")


def _one_line(box: str) -> str:
    """What tyro says in a box, without the box, its title and its pointer to the help."""
    rows = [row.strip("│ ") for row in re.sub(r"\x1b\[[\d;]*m", "", box).splitlines()]
    _title, *said = [row for row in rows if re.search(r"\w", row)]
    return " ".join(itertools.takewhile(lambda row: " helptext" not in row, said))
