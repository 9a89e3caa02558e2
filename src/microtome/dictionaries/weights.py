"""Matrices that stay on disk until some of their rows are wanted."""

import dataclasses
import pickle
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from microtome.core.errors import CannotLoad

BLOCK = 8192  # features read at a time


@runtime_checkable
class Weights(Protocol):
    """Named arrays of a file, read when asked."""

    path: Path

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of an array; None when the file has none of that name."""
        ...

    def read(self, name: str, rows: slice = slice(None), columns: slice = slice(None)) -> Tensor:
        """A matrix or part of it, in the file's own dtype."""
        ...

    def vector(self, name: str) -> Tensor:
        """A whole array. Raises ``CannotLoad`` when there is none of that name."""
        ...


class TensorWeights:
    """Tensors that are there already, perhaps mapped into memory from a file."""

    def __init__(self, tensors: dict[str, Tensor], path: Path) -> None:
        self.tensors, self.path = tensors, path

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of a tensor, or None."""
        return tuple(self.tensors[name].shape) if name in self.tensors else None

    def read(self, name: str, rows: slice = slice(None), columns: slice = slice(None)) -> Tensor:
        """A view of the matrix."""
        return self.tensors[name][rows, columns]

    def vector(self, name: str) -> Tensor:
        """The whole tensor."""
        if name not in self.tensors:
            raise _missing(self.path, name)
        return self.tensors[name]


class SafetensorsWeights:
    """A ``.safetensors`` file: slices are read, the rest is not touched. Raises ``CannotLoad``."""

    def __init__(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        self.path = path
        if not path.is_file():
            raise CannotLoad(f"{path}: no such file; the folder of the dictionary is not complete")
        try:
            self._file: Any = safe_open(path, framework="pt", device="cpu")
            self._names = set(self._file.keys())
        except (SafetensorError, OSError, ValueError, RuntimeError) as error:
            raise CannotLoad(f"{path}: truncated or no safetensors file ({error})") from None

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of a tensor, or None."""
        return tuple(self._file.get_slice(name).get_shape()) if name in self._names else None

    def read(self, name: str, rows: slice = slice(None), columns: slice = slice(None)) -> Tensor:
        """A slice of a matrix."""
        return self._file.get_slice(name)[rows, columns]

    def vector(self, name: str) -> Tensor:
        """The whole tensor."""
        if name not in self._names:
            raise _missing(self.path, name)
        return self._file.get_tensor(name)


def _missing(path: Path, name: str) -> CannotLoad:
    return CannotLoad(f"{path}: no {name} in it; the file is not complete, or of another kind than it says")


@dataclass(frozen=True)
class FeatureRows:
    """A matrix of one row a feature, ``[F, d]``, as a file holds it: perhaps transposed, or to be scaled."""

    weights: Weights
    name: str
    transposed: bool = False
    scale: float | Tensor = 1.0  # of all rows, or of each

    def times(self, scale: Tensor) -> "FeatureRows":
        """The same rows, each times one number more."""
        return dataclasses.replace(self, scale=scale * self.scale)

    def shape(self) -> tuple[int, ...] | None:
        """``(F, d)``; None when the file has no such matrix, another length when it is no matrix."""
        shape = self.weights.shape(self.name)
        return shape[::-1] if shape is not None and self.transposed else shape

    def rows(self, a: int, b: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Rows ``a`` to ``b``, ``[b - a, d]``."""
        part = slice(a, b)
        if self.transposed:
            values = self.weights.read(self.name, columns=part).T.to(dtype)
        else:
            values = self.weights.read(self.name, rows=part).to(dtype)
        if isinstance(self.scale, Tensor):
            return values * self.scale[part, None].to(dtype)
        return values if self.scale == 1.0 else values * self.scale


def row_norms(rows: FeatureRows, n: int) -> Tensor:
    """Euclidean length of every row, ``[n]``, read in blocks. Raises ``CannotLoad`` for another shape."""
    shape = rows.shape()
    if shape is None or len(shape) != 2 or shape[0] != n:
        raise CannotLoad(
            f"{rows.weights.path}: {rows.name} is {shape}, expected {n} features; the weights do not belong"
            " to the configuration beside them"
        )
    return torch.cat([rows.rows(a, min(a + BLOCK, n)).norm(dim=1) for a in range(0, n, BLOCK)])


def read_pickled(path: Path) -> dict[str, Tensor]:
    """Named tensors of a ``torch.save`` file, mapped into memory, nothing in it ever run.

    Raises ``CannotLoad`` in one line for a missing, truncated or unsafe file.
    """
    if not path.is_file():
        raise CannotLoad(f"{path}: no such file; the folder of the dictionary is not complete")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            try:
                state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError as error:
                if "mmap" not in str(error):
                    raise
                state = torch.load(path, map_location="cpu", weights_only=True)  # the old file format
        except pickle.UnpicklingError as error:
            what = "carries code or objects, refused unread" if "lobal" in str(error) else "is truncated"
            raise CannotLoad(f"{path}: a pickle that {what}; save the state dict again") from None
        except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, AttributeError) as error:
            line = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
            raise CannotLoad(f"{path}: truncated or not a torch file ({line})") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CannotLoad(f"{path}: does not hold named tensors only; not the weights of a dictionary")
    return {str(name): tensor.detach() for name, tensor in state.items()}
