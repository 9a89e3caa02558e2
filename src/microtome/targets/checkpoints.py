"""Weights out of other people's checkpoints: nested dictionaries, prefixes, and nothing that runs code."""

import argparse
import contextlib
import io
import pickle
import pickletools
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from microtome.core.errors import CannotLoad
from microtome.core.tensor_files import read_safetensors
from microtome.targets.lazy_layers import make_definite

# Where training scripts keep the weights, in the order they are looked for.
_KEYS = ("model_state_dict", "state_dict", "model", "net", "network", "weights", "params", "parameters")
# Put in front of every name by DataParallel and learn2learn, by torch.compile, and by Lightning.
_WRAPPERS = ("module.", "_orig_mod.")
_OPTIONAL_WRAPPERS = (*_WRAPPERS, "model.", "net.", "network.")
_SHOWN = 24


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The weights in a ``.pt``, ``.pth`` or ``.safetensors`` checkpoint, on the CPU.

    Takes a state dictionary, or one inside a training checkpoint (``model_state_dict``, ``state_dict``,
    ``model``, ...); the prefixes ``module.`` and ``_orig_mod.`` are taken off where every name has them. Of a
    TorchScript file, its weights. Raises ``CannotLoad`` in one line when the file is missing, truncated,
    carries code (the names it would call are listed) or holds NaN or infinity.
    """
    path = Path(path)
    if not path.is_file():
        raise CannotLoad(f"{path}: no such file; check the path of the checkpoint")
    if path.suffix == ".safetensors":
        state = read_safetensors(path)[0]
    elif is_torchscript(path):
        state = _torchscript_weights(path)
    else:
        state = _state_dict(_read_pickle(path), path)
    if not state:
        raise CannotLoad(f"{path}: holds no tensors; save model.state_dict()")
    refuse_not_finite(state, path)
    return without_wrappers(state)


def without_wrappers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names without the prefixes that ``DataParallel``, learn2learn and ``torch.compile`` put before all."""
    names = dict(state)
    while (
        prefix := next((p for p in _WRAPPERS if all(name.startswith(p) for name in names)), None)
    ) and names:
        names = {name.removeprefix(prefix): value for name, value in names.items()}
    return names


def refuse_not_finite(state: Mapping[str, Tensor], source: str | Path) -> None:
    """Raises ``CannotLoad`` naming the weights that hold NaN or infinity."""
    bad = [name for name, value in state.items() if not bool(torch.isfinite(value).all())]
    if bad:
        raise CannotLoad(
            f"{source}: NaN or infinity in {_listed(bad)}; the training diverged, take an earlier checkpoint"
        )


def load_weights(module: nn.Module, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Copy ``state`` into ``module``; every name and shape has to fit.

    One prefix more or less (``module.``, ``_orig_mod.``, ``model.``, ...) is seen through. Raises
    ``CannotLoad`` listing what the checkpoint misses, what it has beyond the module, and shapes that differ.
    """
    make_definite(module, state)
    expected = module.state_dict()
    fitted = _best_prefix(state, expected)
    counters = {name for name in expected if name.endswith("num_batches_tracked")}
    missing = [name for name in expected if name not in fitted and name not in counters]
    extra = [name for name in fitted if name not in expected]
    shapes = [
        f"{name} {list(value.shape)} for {list(expected[name].shape)}"
        for name, value in fitted.items()
        if name in expected and value.shape != expected[name].shape
    ]
    if missing or extra or shapes:
        told = [
            f"{what} {_listed(names)}"
            for what, names in (("misses", missing), ("adds", extra), ("has other shapes:", shapes))
            if names
        ]
        raise CannotLoad(
            f"{source}: does not fit {type(module).__name__}: {'; '.join(told)};"
            " give the class it was saved from with --architecture package.module:Class(argument=value)"
        )
    module.load_state_dict(fitted, strict=False)


def is_torchscript(path: str | Path) -> bool:
    """Whether the file was written by ``torch.jit.save``."""
    return any(name.split("/", 1)[-1].startswith("code/") for name in _members(path))


def is_export(path: str | Path) -> bool:
    """Whether the file was written by ``torch.export.save``."""
    names = [name.split("/", 1)[-1] for name in _members(path)]
    old = "serialized_exported_program.json" in _members(path)
    return old or any(name.startswith("models/") and name.endswith(".json") for name in names)


def _members(path: str | Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return []


def _best_prefix(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names with one wrapper taken off or put on, whichever way fits most of them."""
    ways: list[dict[str, Tensor]] = [dict(state)]
    for prefix in _OPTIONAL_WRAPPERS:
        if all(name.startswith(prefix) for name in state):
            ways.append({name.removeprefix(prefix): value for name, value in state.items()})
        ways.append({prefix + name: value for name, value in state.items()})
    return max(ways, key=lambda way: sum(name in expected for name in way))  # the first of equals: unchanged


def _read_pickle(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", UserWarning
            )  # about the pickle's protocol: read or refused anyway
            with torch.serialization.safe_globals(_harmless()):
                return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CannotLoad(f"{path}: {_why_refused(path, error)}") from None
    except (
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        KeyError,
        IndexError,
        AttributeError,
        TypeError,
    ) as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        raise CannotLoad(f"{path}: truncated or not a torch file ({line}); save it again") from None


def _harmless() -> list[Any]:
    """What training scripts pickle beside the weights and runs nothing: settings and numpy numbers."""
    try:
        from numpy._core import multiarray  # numpy 2
    except ImportError:
        from numpy.core import multiarray  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]
    types = [type(np.dtype(code)) for code in "?bBhHiIlLqQefd"]
    scalar: Any = multiarray.scalar  # pyright: ignore[reportAttributeAccessIssue]
    named = [(scalar, name) for name in ("numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar")]
    return [argparse.Namespace, np.dtype, *dict.fromkeys(types), *named]


def _why_refused(path: Path, error: Exception) -> str:
    names = _unsafe_names(path)
    if names:
        return (
            f"a pickle that would run {_listed(names)}, refused unread;"
            " save model.state_dict() instead of the model or of objects beside it"
        )
    if any(word in str(error).lower() for word in ("global", "blocked", "unsupported class")):
        return "a pickle that carries code or objects, refused unread; save model.state_dict() instead"
    return "truncated or not a torch file; save model.state_dict() again"


def _unsafe_names(path: Path) -> list[str]:
    """What unpickling would look up and call, beyond tensors, found without unpickling."""
    if not zipfile.is_zipfile(path):
        return _names_in_pickle(path)
    try:
        with torch.serialization.safe_globals(_harmless()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # a zip file of something else
        return []


def _names_in_pickle(path: Path) -> list[str]:
    """The same for a bare pickle, and for torch's format before 1.6: pickles one after the other."""
    names: set[str] = set()
    strings: list[str] = []
    with path.open("rb") as file, contextlib.suppress(Exception):
        for _ in range(5):
            for code, value, _ in pickletools.genops(file):
                if code.name == "GLOBAL":
                    names.add(str(value).replace(" ", "."))
                elif code.name == "STACK_GLOBAL":
                    names.add(".".join(strings[-2:]))
                elif isinstance(value, str):
                    strings.append(value)
    return sorted(name for name in names if name.split(".")[0] not in ("torch", "collections", "numpy"))


def _state_dict(found: Any, path: Path) -> dict[str, Tensor]:
    """The state dictionary inside ``found``, however deep a training script has put it."""
    for _ in range(4):
        if not isinstance(found, Mapping):
            break
        inner = next((found[key] for key in _KEYS if isinstance(found.get(key), Mapping)), None)
        if inner is None:
            tensors = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
            if len(tensors) == len(found):
                return tensors
            strange = [str(name) for name, value in found.items() if not isinstance(value, Tensor)]
            raise CannotLoad(
                f"{path}: no state dictionary in it (there are {_listed(strange)});"
                " save {'model_state_dict': model.state_dict()}"
            )
        found = inner
    raise CannotLoad(f"{path}: holds a {type(found).__name__}, not named tensors; save model.state_dict()")


def _torchscript_weights(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated; only the weights are wanted
            return dict(torch.jit.load(io.BytesIO(path.read_bytes()), map_location="cpu").state_dict())
    except (RuntimeError, OSError, ValueError) as error:
        line = str(error).strip().splitlines()[0][:120]
        raise CannotLoad(f"{path}: a TorchScript file that cannot be read ({line}); save it again") from None


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
