"""One feature on at growing magnitude: everything a decomposed network does, in one batched forward."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from microtome.core.errors import CannotLoad, MicrotomeError, bad_value
from microtome.decomposition.result import Decomposition
from microtome.magnitude.forward import Recorder, n_inputs, row_floats
from microtome.magnitude.result import MagnitudeSweep, gigabytes

# What one forward pass may hold at a time; a sweep that needs more is passed in pieces.
CHUNK_BYTES = 256 << 20
Told = Callable[[int, int], None]


def magnitude_range(n_steps: int, max_magnitude: float, two_sided: bool = False) -> Float[np.ndarray, " S"]:
    """``n_steps`` evenly spaced magnitudes from 0 (or ``-max_magnitude``) to ``max_magnitude``, inclusive."""
    if n_steps < 2:
        raise bad_value("n_steps", n_steps, "a sweep has at least two magnitudes", "choose 2 or more")
    return np.linspace(-max_magnitude if two_sided else 0.0, max_magnitude, n_steps)


def compute(
    decomposition: Decomposition,
    features: Sequence[int],
    n_steps: int = 100,
    max_magnitude: float = 2.0,
    two_sided: bool = False,
    *,
    kinds: tuple[str, ...] | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    told: Told | None = None,
) -> MagnitudeSweep:
    """Sweep every given feature over every magnitude, for all K instances, in one batch of rows.

    The batch is passed in pieces when a forward pass would hold more than ``chunk_bytes``. ``kinds`` limits
    the arrays that are kept (default all). ``told(rows done, rows)`` is called after each piece.
    Raises ``MicrotomeError`` for a feature out of range, for fewer than two steps, for results larger than
    the free memory, and ``CannotLoad`` for a network whose inputs and outputs are no vectors.
    """
    n = n_inputs(decomposition)
    for index in features:
        if not 0 <= index < n:
            raise bad_value("feature_idx", index, f"the network has {n} inputs", f"choose 0 to {n - 1}")
    if n_steps < 2:
        magnitude_range(n_steps, max_magnitude)
    indices = np.asarray(features, dtype=np.int64)
    recorder = Recorder(decomposition, kinds)
    span = (-max_magnitude if two_sided else 0.0, max_magnitude)
    arrays = _record(recorder, _Rows(decomposition, n, indices, n_steps, span), chunk_bytes, told)
    magnitudes = magnitude_range(n_steps, max_magnitude, two_sided)
    k = decomposition.n_instances
    unfolded = {
        name: values.reshape(k, -1, len(indices), n_steps).transpose(0, 2, 3, 1)
        for name, values in arrays.items()
    }
    return MagnitudeSweep.of(magnitudes, indices, unfolded, method=decomposition.method, order=recorder.order)


class _Rows:
    """The inputs ``magnitude * e_feature``, made a piece at a time; magnitudes innermost."""

    def __init__(
        self,
        decomposition: Decomposition,
        n: int,
        features: Int[np.ndarray, " F"],
        n_steps: int,
        span: tuple[float, float],
    ) -> None:
        weight = next(iter(decomposition.sites.values())).weight
        self.k, self.n, self.like = decomposition.n_instances, n, weight
        self.features = torch.as_tensor(features, device=weight.device)
        self.n_steps, self.span = n_steps, span

    def __len__(self) -> int:
        return len(self.features) * self.n_steps

    def magnitudes(self, start: int, stop: int) -> Float[Tensor, " N"]:
        """Of rows ``start`` to ``stop``: np.linspace's to the bit, without those of all others in memory."""
        first, last = self.span
        steps = np.arange(start, stop) % self.n_steps
        values = steps * ((last - first) / (self.n_steps - 1)) + first
        values[steps == self.n_steps - 1] = last
        return torch.as_tensor(values).to(self.like.dtype).to(self.like.device)

    def piece(self, start: int, stop: int) -> Float[Tensor, "K N n"]:
        """Rows ``start`` to ``stop``, the batch innermost in memory, as the matrix products like it."""
        rows = torch.arange(start, stop, device=self.features.device)
        x = self.like.new_zeros(self.n, stop - start)
        x[self.features[rows // self.n_steps], rows - start] = self.magnitudes(start, stop)
        return x.T.expand(self.k, -1, -1)


def _record(recorder: Recorder, rows: _Rows, chunk_bytes: int, told: Told | None) -> dict[str, np.ndarray]:
    """Every array as ``[K, width, rows]``: a piece of rows at a time into memory that is taken once."""
    itemsize = rows.like.element_size()
    size = max(1, min(len(rows), chunk_bytes // (itemsize * max(1, row_floats(recorder)))))
    arrays: dict[str, np.ndarray] = {}
    for start in range(0, len(rows), size):
        stop = min(start + size, len(rows))
        made = _pass(recorder, rows.piece(start, stop))
        if not arrays:
            _check_memory({name: v.shape[-1] for name, v in made.items()}, rows, itemsize)
        for name, values in made.items():
            if name not in arrays:
                arrays[name] = np.empty((rows.k, values.shape[-1], len(rows)), dtype=_numpy_type(values))
            arrays[name][:, :, start:stop] = values.mT.cpu().numpy()
        if told is not None:
            told(stop, len(rows))
    return arrays


def _numpy_type(values: Tensor) -> np.dtype:
    return np.dtype(str(values.dtype).removeprefix("torch."))


def _pass(recorder: Recorder, x: Tensor) -> dict[str, Tensor]:
    """One forward pass, and what does not fit told in one line."""
    try:
        made = recorder(x)
    except MicrotomeError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        if "memory" in str(error):
            raise
        raise CannotLoad(
            f"model_path: the network takes no vectors of {x.shape[-1]} features"
            f" ({str(error).splitlines()[0]}); a magnitude sweep needs one that does"
        ) from error
    wrong = [name for name, values in made.items() if values.ndim != 3 or values.shape[1] != x.shape[1]]
    if wrong:
        shape = list(made[wrong[0]].shape[1:])
        raise CannotLoad(
            f"model_path: {x.shape[1]} vectors in, {wrong[0]} of shape {shape}; a magnitude sweep needs"
            " a network that makes one vector of each"
        )
    return made


def _check_memory(widths: dict[str, int], rows: _Rows, itemsize: int) -> None:
    needed = itemsize * rows.k * len(rows) * sum(widths.values())
    free = free_memory()
    if free is not None and needed > free:
        raise MicrotomeError(
            f"n_steps={rows.n_steps}: {len(rows.features)} features at so many magnitudes make"
            f" {gigabytes(needed)} of results, and {gigabytes(free)} of memory are free;"
            " lower n_steps or give fewer features"
        )


def free_memory() -> int | None:
    """Bytes that new arrays may take, or None where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None
