"""What a measure accepts: numpy arrays or torch tensors, without the instance axis."""

from typing import TypeAlias

import numpy as np
from torch import Tensor

Array: TypeAlias = np.ndarray | Tensor


def to_numpy(array: Array) -> np.ndarray:
    """The values in float64 on the CPU, cut off from any gradient; booleans become 0 and 1."""
    values = array.detach().cpu().numpy() if isinstance(array, Tensor) else array
    return np.asarray(values, dtype=np.float64)
