"""Flags read against the fields of a configuration: ``--a.b value``, ``--a-b=value``, ``--switch``."""

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel

from microtome.core.config import NUMBER, Config, Note, plain_kinds
from microtome.core.config_keys import field_annotation, models_in, nearest
from microtome.core.errors import MicrotomeError

YES = {"true": True, "yes": True, "on": True, "1": True}
NO = {"false": False, "no": False, "off": False, "0": False}


@dataclass
class Parsed:
    """The words of a command line, told apart."""

    positional: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)  # dotted key of the configuration -> value
    options: dict[str, Any] = field(default_factory=dict)  # the command's own options
    help: bool = False


def parse(arguments: Sequence[str], config: type[Config] | None, options: type[Config]) -> Parsed:
    """Read the words after a command.

    Flags named in ``options`` belong to the command (where to write, what to resume), all others to
    ``config``. Values are read as YAML would read them. Raises ``MicrotomeError`` for an unknown flag (with
    the nearest known one) and for a missing value.
    """
    parsed = Parsed()
    words = list(arguments)
    while words:
        word = words.pop(0)
        if word in ("-h", "--help"):
            parsed.help = True
        elif word == "--":
            parsed.positional += words
            break
        elif word.startswith("--"):
            _read_flag(word, words, config, options, parsed)
        elif word.startswith("-") and not _is_value(word):
            raise MicrotomeError(f"{word}: flags begin with two dashes; see --help")
        else:
            parsed.positional.append(word)
    return parsed


def build(
    model: type[Config],
    base: Mapping[str, Any],
    flags: Mapping[str, Any],
    source: str,
    note: Note | None = None,
) -> Any:
    """The configuration of a base mapping with flags on top. Raises ``MicrotomeError`` in one line."""
    return model.from_mapping(merge(model, base, flags), source=source, note=note)


def merge(model: type[Config], base: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with each dotted flag put in its place.

    A flag inside a nested configuration that ``base`` leaves out changes that one field of its default.
    """
    result = {str(key).replace("-", "_"): value for key, value in base.items()}
    for dotted, value in flags.items():
        *parents, last = dotted.split(".")
        holder, owner = result, model
        for part in parents:
            inner = holder.get(part)
            default, nested = _default_of(owner, part)
            inner, owner = (default if inner is None else inner), nested
            if not isinstance(inner, Mapping):
                raise MicrotomeError(f"{part}={inner!r}: holds no fields, so --{dotted} cannot be set")
            holder[part] = {str(key).replace("-", "_"): item for key, item in dict(inner).items()}
            holder = holder[part]
        holder[last] = value
    return result


def _default_of(model: Any, name: str) -> tuple[dict[str, Any], Any]:
    """The default of a nested configuration as plain values, and its class where there is one."""
    field = model.model_fields.get(name) if model is not None else None
    if field is None:
        return {}, None
    default = field.get_default(call_default_factory=True)
    if isinstance(default, Config):
        return default.as_dict(), type(default)
    return {}, next(iter(models_in(field.annotation)), None)


def _read_flag(
    word: str, words: list[str], config: type[Config] | None, options: type[Config], parsed: Parsed
) -> None:
    name, equals, attached = word[2:].partition("=")
    key = name.replace("-", "_")
    place = _find(key, config, options)
    if place is None and key.startswith("no_"):
        place = _find(key.removeprefix("no_"), config, options)
        if place is not None and bool in plain_kinds(place[1]) and not equals:
            (parsed.options if place[0] else parsed.values)[key.removeprefix("no_")] = False
            return
        place = None
    if place is None:
        raise _unknown_flag(word, key, config, options)
    own, annotation = place
    given = [attached] if equals else _take_values(words, annotation)
    (parsed.options if own else parsed.values)[key] = read_value(f"--{name}", given, annotation)


def _find(key: str, config: type[Config] | None, options: type[Config]) -> tuple[bool, Any] | None:
    """Whether the flag is the command's own, and its type."""
    if key in options.model_fields:
        return True, options.model_fields[key].annotation
    if config is None:
        return None
    if key in config.renamed or key in config.retired:
        return False, Any
    found = _field_type(config, key.split("."))
    return None if found is None else (False, found)


def _field_type(model: type[BaseModel], parts: list[str]) -> Any:
    """The type of a dotted field; of a union of models, the first that has it."""
    annotation = field_annotation(model, parts[0])
    if annotation is None or len(parts) == 1:
        return annotation
    if get_origin(annotation) is dict:
        return Any
    for nested in models_in(annotation):
        renamed = {**getattr(nested, "renamed", {}), **getattr(nested, "retired", {})}
        found = Any if ".".join(parts[1:]) in renamed else _field_type(nested, parts[1:])
        if found is not None:
            return found
    return None


def _take_values(words: list[str], annotation: Any) -> list[str]:
    """The words that belong to a flag: all up to the next flag for a list, at most one otherwise."""
    if plain_kinds(annotation) <= {bool, type(None)}:
        following = words[0].lower() if words else ""
        return [words.pop(0)] if following in YES or following in NO else []
    taken: list[str] = []
    while words and _is_value(words[0]) and (not taken or _is_sequence(annotation)):
        taken.append(words.pop(0))
    return taken


def read_value(flag: str, words: Sequence[str], annotation: Any) -> Any:
    """The value that the words after a flag stand for."""
    kinds = plain_kinds(annotation)
    if kinds <= {bool, type(None)} and not words:
        return True
    if not words:
        raise MicrotomeError(f"{flag}: needs a value; see --help")
    if len(words) > 1:
        return [_scalar(word, kinds) for word in words]
    value = _scalar(words[0], kinds)
    if _is_sequence(annotation) and value is not None and not isinstance(value, list):
        if isinstance(value, str) and "," in value:
            return [_scalar(word.strip(), kinds) for word in value.strip("[]()").split(",") if word.strip()]
        return [value]
    return value


def _scalar(word: str, kinds: set[Any]) -> Any:
    if word.lower() in ("none", "null", "~") and (type(None) in kinds or Any in kinds):
        return None
    if not _wants_text(kinds) and NUMBER.fullmatch(word):
        return int(word) if word.lstrip("+-").isdigit() else float(word)
    if word[:1] in "[{" or not _wants_text(kinds):
        try:
            return yaml.safe_load(word)
        except yaml.YAMLError:
            return word
    return word


def _wants_text(kinds: set[Any]) -> bool:
    return bool(kinds & {str, Path}) or any(isinstance(kind, str) for kind in kinds)


def _is_sequence(annotation: Any) -> bool:
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType, Annotated):
        return any(_is_sequence(argument) for argument in get_args(annotation))
    return origin in (list, tuple, set, Sequence) or annotation in (list, tuple)


def _is_value(word: str) -> bool:
    """Whether a word is a value rather than a flag: -1, -.5 and -1e-3 are values."""
    return not word.startswith("-") or word == "-" or word[1:2].isdigit() or word[1:2] == "."


def _unknown_flag(word: str, key: str, config: type[Config] | None, options: type[Config]) -> MicrotomeError:
    known = all_flags(config, options)
    flag = word.split("=", 1)[0]
    inside = [name for name in known if name.split(".")[-1] == key]
    if inside:
        return MicrotomeError(f"{flag}: unknown flag; it is --{inside[0]}")
    near = nearest(key, known) or nearest(key, [name.split(".")[-1] for name in known])
    if near is None:
        return MicrotomeError(f"{flag}: unknown flag; --help lists the flags")
    full = next(name for name in known if name == near or name.split(".")[-1] == near)
    return MicrotomeError(f"{flag}: unknown flag; did you mean --{full}?")


def all_flags(config: type[Config] | None, options: type[Config] | None = None) -> list[str]:
    """Every flag, dotted, without dashes in front."""
    names = list(options.model_fields) if options is not None else []

    def visit(model: type[BaseModel], prefix: str) -> None:
        for name, details in model.model_fields.items():
            nested = models_in(details.annotation)
            if not nested:
                names.append(prefix + name)
            for inner in nested:
                visit(inner, f"{prefix}{name}.")

    if config is not None:
        visit(config, "")
    return list(dict.fromkeys(names))


def literal_choices(annotation: Any) -> list[str]:
    """The choices of a Literal type, through unions; empty for other types."""
    if get_origin(annotation) is Literal:
        return [str(choice) for choice in get_args(annotation)]
    return [choice for argument in get_args(annotation) for choice in literal_choices(argument)]
