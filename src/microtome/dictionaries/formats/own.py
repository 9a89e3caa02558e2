"""``microtome.json``, written beside the files of other libraries: what their formats have no word for."""

import json
from pathlib import Path
from typing import Any

from microtome.core.atomic import write_text
from microtome.dictionaries.config import DictionaryConfig
from microtome.dictionaries.formats.places import read_json

NAME = "microtome.json"


def write_own(folder: Path, config: DictionaryConfig, **more: Any) -> None:
    """Write the configuration (and what else the format leaves out)."""
    write_text(folder / NAME, json.dumps(config.as_dict() | more, indent=2) + "\n")


def read_own(folder: Path) -> tuple[DictionaryConfig, dict[str, Any]] | None:
    """The configuration and the rest of ``microtome.json``; None where there is none."""
    path = folder / NAME
    if not path.is_file():
        return None
    values = read_json(path)
    more = {key: values.pop(key) for key in list(values) if key not in DictionaryConfig.model_fields}
    return DictionaryConfig.from_mapping(values, source=str(path)), more


def placed(config: DictionaryConfig, folder: Path) -> DictionaryConfig:
    """``config`` with the place and the names that ``microtome.json`` adds to it."""
    own = read_own(folder)
    if own is None:
        return config
    kept = ("site", "layer", "hook", "model_name", "prefixes", "k")
    if config.architecture == "jumprelu" and own[0].architecture in ("batch_topk", "matryoshka"):
        kept += ("architecture",)
    return config.model_copy(update={name: getattr(own[0], name) for name in kept})
