"""Matrices that stay on disk until some of their rows are wanted."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from microtome.core.errors import CannotLoad


class Weights(Protocol):
    """Named arrays of a file, read when asked."""

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of an array; None when the file has none of that name."""
        ...

    def read(self, name: str, rows: slice = slice(None), columns: slice = slice(None)) -> Tensor:
        """An array, or part of a matrix, in the file's own dtype."""
        ...


class TensorWeights:
    """Tensors that are there already, perhaps mapped into memory from a file."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of a tensor, or None."""
        return tuple(self.tensors[name].shape) if name in self.tensors else None

    def read(self, name: str, rows: slice = slice(None), columns: slice = slice(None)) -> Tensor:
        """A view of the tensor."""
        tensor = self.tensors[name]
        return tensor[rows, columns] if tensor.ndim == 2 else tensor[rows] if tensor.ndim == 1 else tensor


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
        """A tensor, or a slice of a matrix."""
        shape = self.shape(name)
        if shape is None or len(shape) != 2:
            return self._file.get_tensor(name)
        return self._file.get_slice(name)[rows, columns]


@dataclass(frozen=True)
class FeatureRows:
    """A matrix of one row a feature, ``[F, d]``, as a file holds it: perhaps transposed, perhaps to be scaled."""

    weights: Weights
    name: str
    transposed: bool = False
    scale: float | Tensor = 1.0  # of all rows, or of each

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
