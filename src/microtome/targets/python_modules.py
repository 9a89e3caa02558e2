"""A user's own class: ``package.module:Class(width=64)``, read without evaluating anything but literals."""

import ast
import importlib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from microtome.core.errors import CannotLoad

_CALL = re.compile(r"(?P<name>[A-Za-z_][\w.]*:[A-Za-z_][\w.]*)\s*(?P<arguments>\(.*\))?", re.DOTALL)


def is_call(text: str) -> bool:
    """Whether ``text`` has the form ``package.module:Class`` or ``package.module:Class(...)``."""
    return _CALL.fullmatch(text.strip()) is not None


def parse_call(text: str) -> dict[str, Any]:
    """``package.module:Class(64, width=3)`` as an architecture dictionary. Raises ``CannotLoad``."""
    match = _CALL.fullmatch(text.strip())
    if match is None:
        raise CannotLoad(f"{text}: not a class; write package.module:Class or package.module:Class(width=64)")
    positional, named = parse_arguments(match["arguments"] or "()", text)
    return {"kind": "python", "class": match["name"], "positional": positional, "arguments": named}


def parse_arguments(text: str, whole: str) -> tuple[list[Any], dict[str, Any]]:
    """Literals inside ``(64, norm='none')``, those without a name and those with one."""
    try:
        call = ast.parse(f"f{text}", mode="eval").body
        if not isinstance(call, ast.Call) or any(keyword.arg is None for keyword in call.keywords):
            raise ValueError("not a call")
        positional = [ast.literal_eval(value) for value in call.args]
        return positional, {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        raise CannotLoad(
            f"{whole}: its arguments are not plain numbers, texts, lists or truth values; write (width=64)"
        ) from None


def make_module(architecture: dict[str, Any]) -> nn.Module:
    """Import and call what ``parse_call`` read, from the working folder too. Raises ``CannotLoad``."""
    name = str(architecture["class"])
    positional, named = architecture.get("positional", ()), architecture.get("arguments", {})
    module_name, _, attribute = name.partition(":")
    with _working_folder_first():
        try:
            found: Any = importlib.import_module(module_name)
            for part in attribute.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError) as error:
            raise CannotLoad(
                f"{name}: cannot be imported ({error}); run from the folder it is in, or set PYTHONPATH"
            ) from None
        except Exception as error:
            raise CannotLoad(
                f"{name}: importing {module_name} fails ({type(error).__name__}: {error})"
            ) from error
        if not callable(found):
            raise CannotLoad(f"{name}: neither a class nor a function; name an nn.Module class")
        try:
            made = found(*positional, **named)
        except Exception as error:
            raise CannotLoad(
                f"{name}: cannot be made with these arguments ({type(error).__name__}: {error});"
                f" give them as {name}(width=64)"
            ) from error
    if not isinstance(made, nn.Module):
        raise CannotLoad(f"{name}: gives a {type(made).__name__}, not an nn.Module; name another class")
    return made


@contextmanager
def _working_folder_first() -> Iterator[None]:
    """Lets modules in the working folder be imported, as ``python script.py`` would there."""
    here = str(Path.cwd())
    added = here not in sys.path and "" not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        yield
    finally:
        if added and here in sys.path:
            sys.path.remove(here)
