"""The idx files that MNIST and its kin come in."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from microtome.core.errors import CannotLoad

# Third byte of the file -> type of its numbers, big-endian.
_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: str | Path) -> Shaped[np.ndarray, "*shape"]:
    """The array in an idx file, gzipped or not, in the machine's own byte order.

    Format: two zero bytes, one for the type, one for the number of dimensions, each dimension as a big-endian
    32-bit number, then the values. Raises ``CannotLoad`` in one line for anything else.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise CannotLoad(f"{path}: cannot be read ({error}); fetch the idx file again") from None
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in _TYPES:
        raise CannotLoad(f"{path}: not an idx file; its first bytes are {raw[:4].hex(' ') or 'missing'}")
    n_dimensions = raw[3]
    start = 4 + 4 * n_dimensions
    shape = tuple(int(n) for n in np.frombuffer(raw[4:start], ">u4")) if len(raw) >= start else (-1,)
    dtype = np.dtype(_TYPES[raw[2]])
    expected = start + math.prod(shape) * dtype.itemsize
    if len(raw) != expected or min(shape, default=1) < 0:
        raise CannotLoad(f"{path}: {len(raw)} bytes where its header announces {expected}; fetch it again")
    values = np.frombuffer(raw, dtype, offset=start).reshape(shape)
    return values.astype(dtype.newbyteorder("="))
