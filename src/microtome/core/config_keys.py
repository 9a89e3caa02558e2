"""The keys of a configuration file: dashes, old names, unknown ones, in nested models too."""

import difflib
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from microtome.core.errors import MicrotomeError

Model = type[BaseModel]


def normalise(model: Model, mapping: Mapping[str, Any]) -> dict[str, Any]:
    """A copy in which ``-`` and ``_`` are alike in every key that belongs to a model."""
    result: dict[str, Any] = {}
    for key, value in mapping.items():
        name = str(key).replace("-", "_")
        result[name] = _map_nested(field_annotation(model, name), value, normalise)
    return result


def migrate(
    model: Model, values: dict[str, Any], source: str, note: Callable[[str], None], prefix: str = ""
) -> dict[str, Any]:
    """Carry renamed keys over to ours and drop retired ones, one note each; nested models migrate theirs.

    A model whose old files differ in more than names has ``carried_over``, which is asked first.
    """
    carried_over = getattr(model, "carried_over", None)
    if carried_over is not None:
        values = carried_over(values, source, note)
    renamed: dict[str, str] = getattr(model, "renamed", {})
    retired: dict[str, str] = getattr(model, "retired", {})
    for old, remark in retired.items():
        if _take(values, old) is not _ABSENT:
            note(f"{source}: {prefix}{old} is no longer used: {remark}")
    for old, new in renamed.items():
        value = _take(values, old)
        if value is _ABSENT:
            continue
        present = _look(values, new)
        if present is not _ABSENT and present is not None and value is not None and present != value:
            raise MicrotomeError(
                f"{source}: {prefix}{old}={value!r} is the old name of {prefix}{new}={present!r};"
                " keep one of them"
            )
        if present is _ABSENT or present is None:
            _put(values, new, value)
        note(f"{source}: {prefix}{old} is now called {prefix}{new}")
    for name, value in values.items():
        values[name] = _map_nested(
            field_annotation(model, name),
            value,
            lambda nested, inner, at=name: migrate(nested, dict(inner), source, note, f"{prefix}{at}."),
        )
    return values


def unknown_keys(model: Model, values: Mapping[str, Any]) -> list[str]:
    """One phrase for each key that no model knows, with the nearest key that one does."""
    everywhere = _all_keys(model)
    problems: list[str] = []

    def visit(current: Model, mapping: Mapping[str, Any], prefix: str) -> None:
        known = _known(current)
        for key, value in mapping.items():
            if key not in known:
                problems.append(_unknown(key, prefix, known, everywhere))
                continue
            _map_nested(
                field_annotation(current, key),
                value,
                lambda nested, inner, at=key: visit(nested, inner, f"{prefix}{at}."),
            )

    visit(model, values, "")
    return problems


def nearest(word: str, known: list[str]) -> str | None:
    """The known word most like ``word``, or None when nothing is near."""
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return found[0] if found else None


def _unknown(key: str, prefix: str, known: list[str], everywhere: list[str]) -> str:
    elsewhere = [name for name in everywhere if name.split(".")[-1] == key and name != prefix + key]
    near = nearest(key, known)
    if elsewhere:
        mend = f"it belongs at {elsewhere[0]}"
    elif near:
        mend = f"did you mean {prefix}{near}?"
    else:
        mend = "known keys: " + ", ".join(known)
    return f"unknown key {prefix}{key}; {mend}"


def _known(model: Model) -> list[str]:
    names = list(model.model_fields)
    return names + [field.alias for field in model.model_fields.values() if field.alias]


def _all_keys(model: Model, prefix: str = "", depth: int = 0) -> list[str]:
    keys = [prefix + name for name in _known(model)]
    if depth < 4:
        for name, field in model.model_fields.items():
            for nested in models_in(field.annotation):
                keys += _all_keys(nested, f"{prefix}{name}.", depth + 1)
    return keys


def field_names(model: Model) -> set[str]:
    """The names of every field, nested ones too, without the path to them."""
    return {part for name in _all_keys(model) for part in name.split(".")}


def field_annotation(model: Model, name: str) -> Any:
    """The type of a model's field, by name or alias; None when it has no such field."""
    for field_name, field in model.model_fields.items():
        if name in (field_name, field.alias):
            return field.annotation
    return None


def models_in(annotation: Any) -> list[Model]:
    """The models that a field's type can hold, through unions, lists and annotations."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return [annotation] if issubclass(annotation, BaseModel) else []
    if get_origin(annotation) in (dict, Mapping):
        return []
    found: list[Model] = []
    for argument in get_args(annotation):
        found += [model for model in models_in(argument) if model not in found]
    return found


def is_list_of_models(annotation: Any) -> bool:
    """Whether a field holds several models (or none), one after the other."""
    if get_origin(annotation) in (list, tuple):
        return bool(models_in(annotation))
    return any(is_list_of_models(argument) for argument in get_args(annotation))


def _map_nested(annotation: Any, value: Any, visit: Callable[[Model, Mapping[str, Any]], Any]) -> Any:
    """Apply ``visit`` to the mappings inside ``value`` that stand for a nested model; leave the rest."""
    if isinstance(value, Mapping):
        model = _model_for(annotation, value)
        return value if model is None else visit(model, value)
    if isinstance(value, list) and models_in(annotation):
        return [_map_nested(annotation, item, visit) for item in value]
    return value


def _model_for(annotation: Any, value: Mapping[str, Any]) -> Model | None:
    """Which model a mapping stands for: the only one, or the one whose literal fields agree with it."""
    models = models_in(annotation)
    if len(models) > 1:
        models = [model for model in models if _literals_agree(model, value)]
    return models[0] if len(models) == 1 else None


def _literals_agree(model: Model, value: Mapping[str, Any]) -> bool:
    for name, field in model.model_fields.items():
        given = value.get(name, value.get(name.replace("_", "-")))
        if given is None or get_origin(field.annotation) is not Literal:
            continue
        if given not in get_args(field.annotation):
            return False
    return True


_ABSENT = object()


def _look(values: Mapping[str, Any], dotted: str) -> Any:
    current: Any = values
    for part in dotted.split("."):
        if not isinstance(current, Mapping) or part not in current:
            return _ABSENT
        current = current[part]
    return current


def _take(values: dict[str, Any], dotted: str) -> Any:
    *parents, last = dotted.split(".")
    holder = _look(values, ".".join(parents)) if parents else values
    return holder.pop(last, _ABSENT) if isinstance(holder, dict) else _ABSENT


def _put(values: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for part in parents:
        inner = values.setdefault(part, {})
        if not isinstance(inner, dict):
            return
        values = inner
    values[last] = value
