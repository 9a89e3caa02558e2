"""Which method a configuration is for. Imports no torch."""

from collections.abc import Mapping
from typing import Any, Literal

from microtome.core.config import Note
from microtome.core.errors import bad_value
from microtome.decomposition.apd_config import APDConfig
from microtome.decomposition.spd_config import SPDConfig

MethodName = Literal["spd", "apd"]
DecompositionConfig = SPDConfig | APDConfig


def _own_keys(mine: type[DecompositionConfig], other: type[DecompositionConfig]) -> set[str]:
    names = {*mine.model_fields, *(key.split(".")[0] for key in (*mine.renamed, *mine.retired))}
    taken = {*other.model_fields, *(key.split(".")[0] for key in (*other.renamed, *other.retired))}
    return names - taken


def method_of(mapping: Mapping[str, Any]) -> MethodName:
    """The method that a mapping of settings is for: its ``method``, or the one whose own keys it has more of.

    Raises ``MicrotomeError`` when ``method`` names neither.
    """
    given = mapping.get("method")
    if given is not None:
        if str(given).lower() not in ("spd", "apd"):
            raise bad_value("method", given, "unknown", "use spd or apd")
        return "apd" if str(given).lower() == "apd" else "spd"
    keys = {str(key).replace("-", "_") for key in mapping}
    apd = len(keys & _own_keys(APDConfig, SPDConfig))
    spd = len(keys & _own_keys(SPDConfig, APDConfig))
    return "apd" if apd > spd else "spd"


def config_from_mapping(
    mapping: Mapping[str, Any], source: str = "config", note: Note | None = None
) -> DecompositionConfig:
    """The configuration of either method. Raises ``MicrotomeError`` in one line."""
    values = {**mapping}
    method = method_of(values)
    values["method"] = method
    return (APDConfig if method == "apd" else SPDConfig).from_mapping(values, source, note)
