"""Images in memory with one or several labels each, in an order that never depends on the file system."""

from dataclasses import dataclass, field, replace
from hashlib import blake2b

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor


@dataclass(frozen=True)
class Labels:
    """One label of every image: class numbers from 0, and what they are called."""

    values: Int[np.ndarray, " N"]
    names: tuple[str, ...]


@dataclass(frozen=True)
class LabelledImages:
    """``pixels`` are eight-bit (or float in [0, 1]); ``labels`` maps what is asked (``character``) to labels.

    ``names`` tells the images apart (a path inside the source, a row number).
    """

    pixels: Shaped[Tensor, "N C H W"]
    labels: dict[str, Labels]
    names: tuple[str, ...]
    source: str
    digest: str = field(default="", compare=False)

    def __len__(self) -> int:
        return len(self.pixels)

    def inputs(
        self, rows: Tensor | np.ndarray | slice | None = None, *, mean: float = 0.5, std: float = 0.5
    ) -> Float[Tensor, "n C H W"]:
        """Images of ``rows`` (default: all) as a network takes them: ``(x - mean) / std``, x in [0, 1]."""
        chosen = self.pixels if rows is None else self.pixels[rows]
        x = chosen.float() / 255 if chosen.dtype == torch.uint8 else chosen.float()
        return (x - mean) / std

    def rows(self, index: Int[np.ndarray, " n"]) -> "LabelledImages":
        """The images of these rows, classes numbered as before."""
        labels = {name: Labels(each.values[index], each.names) for name, each in self.labels.items()}
        names = tuple(self.names[row] for row in index)
        digest = blake2b(f"{self.digest} {index.tolist()}".encode(), digest_size=16).hexdigest()
        return replace(
            self, pixels=self.pixels[index], labels=labels, names=names, digest=digest if self.digest else ""
        )
