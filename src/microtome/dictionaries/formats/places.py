"""What the names in dictionary files say about where the activations come from; reading their JSON."""

import json
import re
from pathlib import Path
from typing import Any

from microtome.core.errors import CannotLoad
from microtome.dictionaries.config import Site

# A layer's number in a folder, hook or module name. The first pattern that fits counts.
_LAYER = (
    r"(?:layers?|blocks|h)[._-]?(\d+)",
    r"-L(\d+)(?:R|M|A|TC)",  # Llama Scope: Llama3_1-8B-Base-L8R-8x
    r"(?:^|[/._-])L?(\d+)(?:$|[/._-])",
)
# Hook and module names -> site. The first that fits counts; attention has none here.
_SITES: tuple[tuple[str, Site | None], ...] = (
    (r"hook_z|attn|attention|-att(\b|_)", None),
    (r"hook_mlp_out|post_feedforward_layernorm", "mlp_out"),
    (r"(^|[./_-])mlp($|[./_-])", "mlp"),
    (r"hook_resid_(post|pre)|resid|(^|[-_/])res([-_/]|$)", "resid"),
    (r"(^|\.)(layers|h|blocks)\.\d+$", "resid"),
)


def layer_of(name: str) -> int | None:
    """The layer's number in a name such as ``layers.3.mlp`` or ``layer3.sae.pt``; None when there is none."""
    found = next((match for pattern in _LAYER if (match := re.search(pattern, name))), None)
    return int(found[1]) if found else None


def place_of(name: str) -> tuple[Site | None, int | None]:
    """Site and layer that a hook or module name says; None for what it does not say.

    The residual stream before a block is the one after the block before it.
    """
    site: Site | None = next((site for pattern, site in _SITES if re.search(pattern, name)), None)
    layer = layer_of(name)
    if "hook_resid_pre" in name and layer is not None:
        return (site, layer - 1) if layer > 0 else (None, None)
    return site, layer


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


def factor(path: Path, value: Any, key: str) -> float:
    """A positive number of a configuration. Raises ``CannotLoad``."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise CannotLoad(f"{path}: {key}={value!r} is no positive number")
    return float(value)
