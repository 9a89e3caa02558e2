"""Arrays of any library as numpy's, without importing that library."""

from typing import Any

import numpy as np


def as_numpy(values: Any) -> np.ndarray:
    """Numpy arrays, lists, and torch tensors (on any device, of any precision, with or without gradients).

    Floating point becomes float32 at least; bfloat16, which numpy lacks, included.
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        if values.is_floating_point() and values.element_size() < 4:
            values = values.float()
        values = values.numpy()
    array = np.asarray(values)
    return array.astype(np.float32) if array.dtype == np.float16 else array
