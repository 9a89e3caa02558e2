"""A command's ``--help``: usage, its own options, and every field of its configuration."""

import ast
import inspect
import itertools
import shutil
import textwrap
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from microtome.core.config import Config
from microtome.core.config_keys import models_in

_KIND_NAMES = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH", type(None): "none", Any: "VALUE"}


def command_help(usage: str, about: str, options: type[Config], configs: dict[str, type[Config]]) -> str:
    """The page: ``configs`` maps a heading to a configuration whose fields are flags."""
    parts = [f"usage: {usage}", "", _wrap(about, 0), "", "options:", *_fields(options, "", set())]
    parts.append(_entry("--debug", "show where an error came from"))
    for heading, config in configs.items():
        parts += ["", f"{heading}:", *_fields(config, "", set())]
    return "\n".join(parts)


def _fields(
    model: type[BaseModel], prefix: str, seen: set[str], default: Any = None, family: Any = ()
) -> list[str]:
    """One entry a flag.

    ``default`` is the instance that a nested configuration starts from, ``family`` the configurations that
    may stand in this one's place.
    """
    remarks = attribute_docstrings(model)
    lines: list[str] = []
    later: list[str] = []
    for name, field in model.model_fields.items():
        nested = models_in(field.annotation)
        if nested and get_origin(field.annotation) is not list:
            start = getattr(default, name, None) or field.get_default(call_default_factory=True)
            for inner in nested:
                later += _fields(
                    inner, f"{prefix}{name}.", seen, start if isinstance(start, inner) else None, nested
                )
            continue
        flag = f"--{prefix}{name}"
        if flag in seen:
            continue
        seen.add(flag)
        start = getattr(default, name, field.get_default(call_default_factory=True))
        known = default is not None or not field.is_required()
        remark = field.description or remarks.get(name, "")
        text = " ".join(part for part in (remark, _default(start) if known else "(required)") if part)
        if field.annotation is bool:
            flag = f"--[no_]{prefix}{name}"
        lines.append(_entry(f"{flag} {_kind(field.annotation, name, family)}".rstrip(), text))
    return lines + later


def _kind(annotation: Any, name: str, family: Any) -> str:
    """The type of a field; its choices are those of every configuration in the family."""
    if get_origin(annotation) is not Literal:
        return kind_name(annotation)
    fields = [model.model_fields[name].annotation for model in family if name in model.model_fields]
    choices = [str(choice) for field in fields or [annotation] for choice in get_args(field)]
    return "{" + ",".join(dict.fromkeys(choices)) + "}"


def _default(value: Any) -> str:
    if value is None or value is PydanticUndefined or value == "":
        return "(default: none)"
    if isinstance(value, bool):
        return f"(default: {'yes' if value else 'no'})"
    if isinstance(value, (list, tuple)):
        return f"(default: {' '.join(str(item) for item in value)})"
    return f"(default: {value})"


def kind_name(annotation: Any) -> str:
    """A type as a user reads it: ``INT``, ``FLOAT FLOAT``, ``{a,b}``; nothing for a switch."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return kind_name(arguments[0])
    if origin is Literal:
        return "{" + ",".join(str(choice) for choice in arguments) + "}"
    if origin in (Union, types.UnionType):
        names = [kind_name(argument) for argument in arguments if argument is not type(None)]
        return "|".join(dict.fromkeys(name for name in names if name))
    if any(get_origin(argument) in (list, tuple) for argument in arguments):
        return "[[..],..]"
    if origin in (list, set) or (origin is tuple and arguments[-1:] == (...,)):
        return f"{kind_name(arguments[0])} ..." if arguments else "VALUE ..."
    if origin is tuple:
        return " ".join(kind_name(argument) for argument in arguments)
    if annotation is bool:
        return ""
    return _KIND_NAMES.get(annotation, "VALUE")


def _entry(flag: str, text: str) -> str:
    indent = 30
    lines = _wrap(text, indent).splitlines() or [""]
    head = f"  {flag}"
    if len(head) >= indent - 1:
        return "\n".join([head, *lines])
    return "\n".join([head.ljust(indent) + lines[0].strip(), *lines[1:]])


def _wrap(text: str, indent: int) -> str:
    width = min(shutil.get_terminal_size((100, 24)).columns, 110)
    pad = " " * indent
    plain = text.replace("``", "").replace("`", "")
    return "\n".join(
        textwrap.fill(" ".join(part.split()), max(width, 60), initial_indent=pad, subsequent_indent=pad)
        for part in plain.split("\n\n")
    )


def attribute_docstrings(model: type[BaseModel]) -> dict[str, str]:
    """The strings that stand below a model's fields in its source, those of base classes included."""
    remarks: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if not (issubclass(base, BaseModel) and base not in (BaseModel, Config)):
            continue
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        except (OSError, TypeError, SyntaxError):
            continue
        statements = getattr(body, "body", [])
        for field, remark in itertools.pairwise(statements):
            if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
                continue
            if isinstance(remark, ast.Expr) and isinstance(remark.value, ast.Constant):
                remarks[field.target.id] = str(remark.value.value).strip()
    return remarks
