"""Files of named tensors: read without ever running code that a file carries, written atomically."""

import contextlib
import errno
import json
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from microtome.core.atomic import atomic_path
from microtome.core.errors import CannotLoad

if TYPE_CHECKING:
    from torch import Tensor


def load_state_dict(path: str | Path) -> "dict[str, Tensor]":
    """The named tensors in a ``.pth``, ``.pt`` or ``.safetensors`` file, on the CPU.

    Pickles are read with ``weights_only=True``: one that carries code or objects is refused. Raises
    ``CannotLoad`` in one line when the file is missing, truncated, unsafe or holds anything but tensors.
    """
    path = Path(path)
    if path.is_dir():
        raise CannotLoad(f"{path}: a folder, not a checkpoint file; name the .pth or .safetensors file in it")
    if not path.is_file():
        raise CannotLoad(f"{path}: no such file; check the path of the checkpoint")
    if path.suffix == ".safetensors":
        return read_safetensors(path)[0]
    return _read_torch(path)


def _read_torch(path: Path) -> "dict[str, Tensor]":
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", UserWarning
            )  # about the pickle's protocol; read or refused anyway
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CannotLoad(f"{path}: {_unpickling_problem(path, error)}") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise CannotLoad(
            f"{path}: truncated or not a torch file ({_first_line(error)}); save it again"
        ) from None
    state = _model_part(state)
    if not isinstance(state, Mapping):
        raise CannotLoad(
            f"{path}: holds a {type(state).__name__}, not named tensors; save model.state_dict()"
        )
    strange = [str(key) for key, value in state.items() if not isinstance(value, torch.Tensor)]
    if strange:
        raise CannotLoad(f"{path}: {strange[0]!r} is not a tensor; save model.state_dict() and nothing else")
    return {str(key): value for key, value in state.items()}


def _model_part(state: Any) -> Any:
    """The model's tensors in a training checkpoint, which holds the optimiser's and the step beside them."""
    if not isinstance(state, Mapping):
        return state
    if isinstance(state.get("model_state_dict"), Mapping):
        return state["model_state_dict"]
    return state["state_dict"] if isinstance(state.get("state_dict"), Mapping) else state


def _unpickling_problem(path: Path, error: Exception) -> str:
    text = str(error).lower()
    if "global" in text or "blocked" in text or "unsupported class" in text:
        return "a pickle that carries code or objects, refused unread; save model.state_dict() instead"
    if not zipfile.is_zipfile(path):
        return "truncated or not a torch file; save model.state_dict() again"
    return "a pickle that is not plain tensors; save model.state_dict() instead"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:120] if lines else type(error).__name__


def read_safetensors(path: str | Path) -> "tuple[dict[str, Tensor], dict[str, str]]":
    """The tensors and the text metadata of a ``.safetensors`` file. Raises ``CannotLoad``."""
    from safetensors import safe_open

    path = Path(path)
    try:
        # A copy: the file may be replaced or removed while the tensors live on.
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            return tensors, dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise CannotLoad(f"{path}: truncated or no safetensors file ({_first_line(error)})") from None


def write_safetensors(path: str | Path, tensors: "Mapping[str, Tensor]", extra: Mapping[str, Any]) -> Path:
    """Write tensors, with ``extra`` as JSON in the metadata, atomically."""
    from safetensors.torch import save_file

    with atomic_path(path) as temporary, _disk_errors():
        save_file(plain_tensors(tensors), temporary, metadata={"extra": json.dumps(dict(extra))})
    return Path(path)


def write_torch(path: str | Path, tensors: "Mapping[str, Tensor]") -> Path:
    """Write a state dict with ``torch.save``, atomically, readable with ``weights_only=True``."""
    import torch

    with atomic_path(path) as temporary, _disk_errors():
        torch.save(plain_tensors(tensors), temporary)
    return Path(path)


def plain_tensors(tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """Each tensor detached, on the CPU, contiguous, and in a memory block of its own."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    """Turns the libraries' own errors of a failed write into the ``OSError`` that they come from."""
    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is not None:
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
        if any(sign in str(error) for sign in ("No space left", "iostream error", "inline_container")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise
