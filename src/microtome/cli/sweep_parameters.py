"""The parameters that a sweep hands to a command, in a file that the environment names."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from microtome.core.config import read_yaml
from microtome.core.errors import MicrotomeError

VARIABLE = "WANDB_SWEEP_PARAM_PATH"


def sweep_parameters() -> dict[str, Any]:
    """Dotted name -> value of a trial's parameters; empty outside a sweep. They win over flags and files.

    The file is as W&B's agent writes it: YAML, ``name: {value: ...}``, with ``wandb_version`` beside the
    names. Raises ``MicrotomeError``.
    """
    path = os.environ.get(VARIABLE)
    if not path:
        return {}
    if not Path(path).is_file():
        raise MicrotomeError(f"{VARIABLE}={path}: no such file; unset it to run outside the sweep")
    values = {name: entry for name, entry in read_yaml(path).items() if name != "wandb_version"}
    for name, entry in values.items():
        if not isinstance(entry, Mapping) or "value" not in entry:
            raise MicrotomeError(f"{path}: {name}={entry!r}: not a parameter; write `{name}: {{value: ...}}`")
    return dotted({name: entry["value"] for name, entry in values.items()})


def dotted(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Groups of parameters as single ones with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= dotted(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
