"""Arrays of an ``.npz`` file: mapped into memory where it is not compressed, read once where it is."""

import zipfile
from pathlib import Path

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from microtome.core.errors import CannotLoad
from microtome.dictionaries.weights import TensorWeights


class NpzWeights(TensorWeights):
    """The arrays of an ``.npz`` file, never unpickled. Raises ``CannotLoad``."""

    def __init__(self, path: Path) -> None:
        try:
            with zipfile.ZipFile(path) as archive:
                tensors = {
                    member.filename.removesuffix(".npy"): _array(path, archive, member)
                    for member in archive.infolist()
                }
        except FileNotFoundError:
            raise CannotLoad(f"{path}: no such file; check the path of the dictionary") from None
        except (zipfile.BadZipFile, OSError, ValueError, EOFError, KeyError) as error:
            raise CannotLoad(f"{path}: truncated or not an npz file ({error})") from None
        super().__init__(tensors, path)


def _array(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Tensor:
    with archive.open(member) as file:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(file)
        if dtype.hasobject:
            raise ValueError(f"{member.filename} holds Python objects, refused unread")
        start = file.tell()
    if member.compress_type == zipfile.ZIP_STORED:
        offset = _data_offset(path, member) + start
        size = int(np.prod(shape)) * dtype.itemsize
        if offset + size > path.stat().st_size:
            raise ValueError(f"{member.filename} is cut short")
        order = "F" if fortran else "C"
        values = np.memmap(path, dtype, "c", offset, shape, order) if size else np.zeros(shape, dtype)
    else:
        with archive.open(member) as file:
            values = npy.read_array(file, allow_pickle=False)
    return torch.from_numpy(np.asarray(values))


def _data_offset(path: Path, member: zipfile.ZipInfo) -> int:
    """Where a member's bytes begin: behind its local header, whose name and extra field have any length."""
    with path.open("rb") as raw:
        raw.seek(member.header_offset)
        header = raw.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise ValueError(f"{member.filename} has no header")
    return (
        member.header_offset
        + 30
        + int.from_bytes(header[26:28], "little")
        + int.from_bytes(header[28:30], "little")
    )
