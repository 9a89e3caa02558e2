"""Kernels that work on single precision tensors of a CPU."""

import ctypes

import torch
from torch import Tensor

from microtome.decomposition.kernels.build import load_library


def single_precision_library(name: str, like: Tensor) -> ctypes.CDLL | None:
    """The compiled ``<name>.c`` where it can work on ``like``, else None."""
    if like.device.type != "cpu" or like.dtype != torch.float32:
        return None
    return load_library(name)


def pointer(tensor: Tensor) -> ctypes.c_void_p:
    """Where the tensor's numbers begin."""
    return ctypes.c_void_p(tensor.data_ptr())
