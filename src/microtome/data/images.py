"""Real data: the handwritten digits that scikit-learn ships, and arrays of your own."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from microtome.core.errors import MicrotomeError


@dataclass(frozen=True)
class ArrayData:
    """Rows ``x [N, *d]`` with optional labels ``y [N]``, drawn with replacement."""

    x: Shaped[Tensor, "N *d"]
    y: Int[Tensor, " _"] | None = None
    source: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if len(self.x) == 0:
            raise MicrotomeError("x=[]: no rows to draw from; give at least one")
        if not torch.isfinite(self.x).all():
            raise MicrotomeError("x: holds NaN or infinity; clean the data first")
        if self.y is not None and len(self.y) != len(self.x):
            raise MicrotomeError(f"y: {len(self.y)} labels for {len(self.x)} rows; give one label a row")

    @classmethod
    def from_arrays(cls, x: Any, y: Any = None) -> "ArrayData":
        """From anything numpy or torch can read; inputs become float32, labels int64."""
        inputs = torch.as_tensor(np.asarray(x), dtype=torch.float32)
        return cls(inputs, None if y is None else torch.as_tensor(np.asarray(y), dtype=torch.int64))

    def batch(
        self, batch_size: int, generator: torch.Generator | None = None, n_instances: int = 1
    ) -> Shaped[Tensor, "K B *d"]:
        """``batch_size`` rows for each instance."""
        return self.x[self._rows(batch_size, generator, n_instances)]

    def labelled_batch(
        self, batch_size: int, generator: torch.Generator | None = None, n_instances: int = 1
    ) -> tuple[Shaped[Tensor, "K B *d"], Int[Tensor, "K B"]]:
        """Rows and their labels. Raises MicrotomeError when there are no labels."""
        if self.y is None:
            raise MicrotomeError("y=None: these data have no labels; give them with the rows")
        rows = self._rows(batch_size, generator, n_instances)
        return self.x[rows], self.y[rows]

    def all(self, n_instances: int = 1) -> Shaped[Tensor, "K N *d"]:
        """Every row, for each instance; a view."""
        return self.x.expand(n_instances, *self.x.shape)

    def spec(self) -> dict[str, Any]:
        """JSON-able description; arrays given in memory cannot be made again from theirs."""
        return self.source or {"kind": "arrays", "shape": list(self.x.shape)}

    def _rows(self, batch_size: int, generator: torch.Generator | None, n_instances: int) -> Tensor:
        return torch.randint(
            len(self.x), (n_instances, batch_size), generator=generator, device=self.x.device
        )


class Digits(NamedTuple):
    """The two halves of the split."""

    train: ArrayData
    test: ArrayData


def digits() -> Digits:
    """scikit-learn's 1,797 handwritten digits, ``[N, 64]`` in [0, 1].

    Fixed split without randomness: within each class every fifth image is a test image.
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    position = np.zeros(len(labels), dtype=int)
    for digit in range(10):
        position[labels == digit] = np.arange(int((labels == digit).sum()))
    held_out = position % 5 == 4
    halves = {}
    for split, chosen in (("train", ~held_out), ("test", held_out)):
        x = torch.as_tensor(images[chosen] / 16, dtype=torch.float32)
        y = torch.as_tensor(labels[chosen], dtype=torch.int64)
        halves[split] = ArrayData(x, y, {"kind": "digits", "split": split})
    return Digits(**halves)
