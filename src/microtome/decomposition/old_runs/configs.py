"""final_config.yaml of the original codes, read as ours. Imports no torch.

A finished run is never refused for a setting that this version cannot train with: such settings become notes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from pydantic import BaseModel

from microtome.core.config import Config
from microtome.core.config_keys import field_annotation, models_in
from microtome.decomposition.apd_config import APDConfig
from microtome.decomposition.config import DecompositionConfig, method_of
from microtome.decomposition.old_runs.later_config import LATER_KEYS, as_ours
from microtome.decomposition.spd_config import SPDConfig

Values = dict[str, Any]


@dataclass(frozen=True)
class OldConfig:
    """Our configuration of an old run, and what of the file it could not take.

    ``sigmoid_type`` and ``ci_fn_type`` as the file has them: ``paper`` and None in files from before there
    was a choice. ``original`` is the whole file.
    """

    config: DecompositionConfig
    notes: tuple[str, ...]
    original: Mapping[str, Any] = field(repr=False)
    sigmoid_type: str = "paper"
    ci_fn_type: str | None = None


def read_old_config(original: Mapping[str, Any], source: str, method: str | None = None) -> OldConfig:
    """Migrate a file's settings. ``method`` (by the checkpoint) decides for SPD or APD, else the keys do.

    Raises ``MicrotomeError`` for values that no version could have written.
    """
    notes: list[str] = []
    values = {str(key): value for key, value in original.items()}
    later = bool(LATER_KEYS & values.keys())
    sigmoid_type, ci_fn_type = "paper", None
    chosen = method or ("spd" if later else method_of(values))
    if chosen == "spd":
        if later:
            values = as_ours(values, source, notes.append, finished=True)
            sigmoid_type, ci_fn_type = values["sigmoid_type"], values["ci_fn_type"]
        values = _language_models(_first_spellings(values), notes)
    model: type[Config] = APDConfig if chosen == "apd" else SPDConfig
    values = _known(model, values, notes)
    found = model.from_mapping({**values, "method": chosen}, source, notes.append)
    assert isinstance(found, SPDConfig | APDConfig)
    lines = tuple(note if note.startswith(source) else f"{source}: {note}" for note in notes)
    return OldConfig(found, lines, dict(original), sigmoid_type, ci_fn_type)


def _first_spellings(values: Values) -> Values:
    """The SPD paper's code before it was released: null stood for gates without neurons."""
    for name in ("n_gate_hidden_neurons", "n_ci_mlp_neurons"):
        if name in values and values[name] is None:
            values = {**values, name: 0}
    return values


def _language_models(values: Values, notes: list[str]) -> Values:
    """Settings for language models only, which are no reason not to read a finished run."""
    for name in ("embedding_recon_coeff", "is_embed_unembed_recon"):
        if values.get(name):
            notes.append(f"{name}: {values[name]} is kept to read only")
            values = {key: value for key, value in values.items() if key != name}
    return values


def _known(model: type[Config], values: Values, notes: list[str]) -> Values:
    """``values`` without the keys that the model has never known, each with a note."""
    carried = {*model.renamed, *model.retired}
    kept: Values = {}
    for key, value in values.items():
        annotation = field_annotation(model, key)
        if annotation is None and not any(key in (old, old.split(".")[0]) for old in carried):
            notes.append(f"{key}: {_short(value)} is kept to read only")
        elif isinstance(value, Mapping) and models_in(annotation):
            inner = _nested(key, annotation, value, carried, notes)
            if inner is not None:
                kept[key] = inner
        else:
            kept[key] = value
    return kept


def _nested(
    key: str, annotation: Any, value: Mapping[str, Any], carried: set[str], notes: list[str]
) -> Values | None:
    name = value.get("task_name")
    models = [m for m in models_in(annotation) if name in _task_names(m)]
    if not models:
        notes.append(f"{key}: {_short(value)} is of a task that this version does not know")
        return None
    inner: Values = {}
    for part, setting in value.items():
        if part in models[0].model_fields or f"{key}.{part}" in carried:
            inner[part] = setting
        else:
            notes.append(f"{key}.{part}: {_short(setting)} is kept to read only")
    return inner


def _task_names(model: type[BaseModel]) -> tuple[Any, ...]:
    return get_args(field_annotation(model, "task_name"))


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 80 else text[:77] + "..."
