"""Where a run keeps its frozen target: a small one in every checkpoint, a large one in a file of its own."""

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from microtome.core.runs import RunFolder
from microtome.core.tensor_files import read_safetensors, write_safetensors

TARGET_FILE = "target.safetensors"
LARGE = 2**20  # bytes
PREFIX = "target/"


def is_large(state: Mapping[str, Tensor]) -> bool:
    """Whether the target is written once instead of into every checkpoint."""
    return sum(tensor.numel() * tensor.element_size() for tensor in state.values()) > LARGE


def save_target(run: RunFolder, state: Mapping[str, Tensor], spec: Mapping[str, Any]) -> None:
    """Write ``target.safetensors``, the target's description in its metadata, unless it is there."""
    path = run.path / TARGET_FILE
    if not path.is_file():
        write_safetensors(path, state, {"target": dict(spec)})


def latest_state(run: RunFolder) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
    """The newest checkpoint with the target in it, wherever that is kept. Raises ``CannotLoad``."""
    found = run.latest_checkpoint()
    if found is None or "target" in found[2] or not (run.path / TARGET_FILE).is_file():
        return found
    step, tensors, extra = found
    state, metadata = read_safetensors(run.path / TARGET_FILE)
    described = json.loads(metadata.get("extra", "{}"))
    return step, tensors | {PREFIX + name: value for name, value in state.items()}, extra | described
