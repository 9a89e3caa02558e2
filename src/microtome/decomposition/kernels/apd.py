"""Python side of apd.c: the sparse loops of APD on networks ``relu(x P_0 .. P_{L-1} + bias)``."""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from microtome.decomposition.kernels.build import load_library

_SUFFIX = {torch.float32: "float", torch.float64: "double"}


def available(x: Tensor) -> bool:
    """Whether the kernels can run on this tensor here."""
    return x.device.type == "cpu" and x.dtype in _SUFFIX and load_library("apd") is not None


def _call(name: str, dtype: torch.dtype, *arguments: Any) -> None:
    library = load_library("apd")
    assert library is not None
    converted: list[object] = []
    for argument in arguments:
        if isinstance(argument, Tensor):
            assert argument.is_contiguous()
            converted.append(ctypes.c_void_p(argument.data_ptr()))
        elif isinstance(argument, float):
            converted.append(
                ctypes.c_float(argument) if dtype == torch.float32 else ctypes.c_double(argument)
            )
        elif isinstance(argument, int):
            converted.append(ctypes.c_int(argument))
        else:
            converted.append(argument)
    if getattr(library, f"{name}_{_SUFFIX[dtype]}")(*converted) != 0:
        raise MemoryError(f"{name}: no memory for its scratch")


def relu_attributions(
    x: Float[Tensor, "K B n"],
    whole: Float[Tensor, "K n o"],
    gating: Float[Tensor, "K n o"],
    bias: Float[Tensor, "K o"],
    maps: Float[Tensor, "K n o C"],
) -> tuple[Float[Tensor, "K B o"], Float[Tensor, "K B C"]]:
    """Target outputs ``relu(x whole + bias)`` and ``A_c = sum_{o open} (x maps_c)_o^2``.

    An output is open where ``x gating + bias > 0``. Outputs of all-zero rows are left unset: the top-k pass
    does not read them.
    """
    k, b, n = x.shape
    o, c = maps.shape[2:]
    target, scores = x.new_empty(k, b, o), x.new_empty(k, b, c)
    _call("apd_attributions", x.dtype, k, b, n, o, c, x, whole, gating, bias, maps, target, scores)
    return target, scores


def select_largest(scores: Float[Tensor, "rows n"], counts: Sequence[int]) -> Bool[Tensor, "rows n"]:
    """``attribution.topk.largest`` for scores that are not negative."""
    rows, n = scores.shape
    mask = torch.empty(rows, n, dtype=torch.bool)
    wanted = (ctypes.c_int64 * rows)(*counts)
    _call("apd_select", scores.dtype, ctypes.c_int64(rows), ctypes.c_int64(n), wanted, scores, mask)
    return mask


def topk_pass(
    x: Float[Tensor, "K B n"],
    target: Float[Tensor, "K B o"],
    bias: Float[Tensor, "K o"],
    mask: Bool[Tensor, "K B C"],
    parts: Sequence[Float[Tensor, "K C _ _"]],
    last_transposed: Float[Tensor, "K C o _"],
    scale: float,
    gradients: Sequence[Float[Tensor, "K C _ _"]],
    last_gradient: Float[Tensor, "K C o _"],
) -> tuple[Float[Tensor, " K"], Float[Tensor, "K C"]]:
    """Sum of squared errors of the masked network and how many samples use each component.

    Adds ``scale`` times half the gradient of that sum to ``gradients`` (all sites but the last) and,
    transposed, to ``last_gradient``, which may be the first site's when the network is tied.
    """
    k, b, _ = x.shape
    dims = [parts[0].shape[2], *(part.shape[3] for part in parts)]
    pointers = ctypes.c_void_p * len(parts)
    errors = torch.empty(k, dtype=torch.float64)
    counts = torch.empty(k, mask.shape[2], dtype=torch.int64)
    _call(
        "apd_topk_pass",
        x.dtype,
        k,
        b,
        len(parts),
        (ctypes.c_int * len(dims))(*dims),
        mask.shape[2],
        x,
        target,
        bias,
        mask,
        pointers(*(part.data_ptr() for part in parts)),
        last_transposed,
        scale,
        pointers(*(gradient.data_ptr() for gradient in gradients)),
        last_gradient,
        errors,
        counts,
    )
    return errors.to(x.dtype), counts.to(x.dtype)


def unit_rows(rows: Float[Tensor, "*n d"]) -> None:
    """Scale every row to length one, in place."""
    d = rows.shape[-1]
    _call("apd_unit_rows", rows.dtype, ctypes.c_int64(rows.numel() // d), ctypes.c_int64(d), rows)


def project_rows(rows: Float[Tensor, "*n d"], gradients: Float[Tensor, "*n d"]) -> None:
    """``gradient -= (gradient . row) row`` for every row, in place."""
    n, d = rows.numel() // rows.shape[-1], rows.shape[-1]
    _call("apd_project_rows", rows.dtype, ctypes.c_int64(n), ctypes.c_int64(d), rows, gradients)
