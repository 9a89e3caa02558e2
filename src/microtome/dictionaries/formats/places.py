"""What the names in dictionary files say about where the activations come from; reading their JSON."""

import json
import re
from pathlib import Path
from typing import Any

from microtome.core.errors import CannotLoad
from microtome.dictionaries.config import Site

# Patterns over hook and module names -> site. The first that fits counts.
_SITES: tuple[tuple[str, Site], ...] = (
    (r"hook_mlp_out", "mlp_out"),
    (r"mlp_out", "mlp_out"),
    (r"(^|\.)mlp(\.|$)|mlp", "mlp"),
    (r"hook_resid_post|resid_post|residual|resid|res\b", "resid"),
    (r"^(model\.)?(layers|h|blocks)\.\d+$", "resid"),
)


def place_of(name: str) -> tuple[Site | None, int | None]:
    """Site and layer in a hook or module name such as ``layers.3.mlp``; None where it says neither."""
    number = re.search(r"(?:layers?|blocks|h)[._](\d+)", name) or re.search(
        r"(?:^|[._-])(\d+)(?:$|[._-])", name
    )
    site = next((site for pattern, site in _SITES if re.search(pattern, name)), None)
    return site, int(number[1]) if number else None


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file. Raises ``CannotLoad``."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CannotLoad(f"{path}: no such file; the folder of the dictionary is not complete") from None
    except (OSError, ValueError) as error:
        raise CannotLoad(f"{path}: truncated or not JSON ({error})") from None
    if not isinstance(values, dict):
        raise CannotLoad(f"{path}: holds a {type(values).__name__}, not a mapping")
    return values


def whole_number(path: Path, values: dict[str, Any], key: str) -> int:
    """A positive whole number of a configuration. Raises ``CannotLoad``."""
    value = values.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value) or value < 1:
        raise CannotLoad(f"{path}: {key}={value!r} is no positive whole number")
    return int(value)
