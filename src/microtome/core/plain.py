"""Values as JSON and YAML can hold them."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def plain_value(value: Any) -> Any:
    """Numbers, arrays and tensors as what JSON can hold; what is not finite becomes null."""
    if isinstance(value, Mapping):
        return {str(key): plain_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain_value(item) for item in value]
    if hasattr(value, "tolist"):
        return plain_value(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    return value
