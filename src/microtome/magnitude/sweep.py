"""One feature on at growing magnitude: everything a decomposed network does, in one batched forward."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from microtome.core.errors import bad_value
from microtome.decomposition.result import Decomposition
from microtome.targets.network import Target

PerSite = dict[str, Float[np.ndarray, "K F S _"]]
GATE_PANELS = ("causal importances", "gate outputs", "gate inputs")


@dataclass(frozen=True)
class MagnitudeSweep:
    """Responses to ``magnitude * e_feature``; arrays are ``[K, F, S, width]`` for F features, S magnitudes.

    ``pre[site]`` are a site's outputs, bias included; ``post[site]`` what the network makes of them by its
    nonlinearity. ``gate_inputs``, ``gate_outputs`` (before the sigmoid), ``lower`` and ``upper`` (its leaky
    forms) are empty for a method without gates. ``outputs`` are the target's.
    """

    magnitudes: Float[np.ndarray, " S"]
    features: Int[np.ndarray, " F"]
    outputs: Float[np.ndarray, "K F S d_out"]
    pre: PerSite
    post: PerSite
    gate_inputs: PerSite = field(default_factory=dict)
    gate_outputs: PerSite = field(default_factory=dict)
    lower: PerSite = field(default_factory=dict)
    upper: PerSite = field(default_factory=dict)

    @property
    def left_out(self) -> tuple[str, ...]:
        """The panel families that this decomposition cannot show."""
        return () if self.lower else GATE_PANELS

    def arrays(self) -> dict[str, np.ndarray]:
        """Every array by name, per-site ones as ``<kind>/<site>``, for an npz file."""
        named = {"magnitudes": self.magnitudes, "features": self.features, "outputs": self.outputs}
        for kind in ("pre", "post", "gate_inputs", "gate_outputs", "lower", "upper"):
            named |= {f"{kind}/{site}": values for site, values in getattr(self, kind).items()}
        return named


def n_inputs(target: Target) -> int:
    """Number of input features of a network that takes vectors."""
    embedding = getattr(target, "W_E", None)
    if isinstance(embedding, Tensor):
        return embedding.shape[-2]
    return next(iter(target.sites().values())).weight.shape[1]


def magnitude_range(n_steps: int, max_magnitude: float, two_sided: bool = False) -> Float[np.ndarray, " S"]:
    """``n_steps`` evenly spaced magnitudes from 0 (or ``-max_magnitude``) to ``max_magnitude``, inclusive."""
    if n_steps < 2:
        raise bad_value("n_steps", n_steps, "a sweep has at least two magnitudes", "choose 2 or more")
    return np.linspace(-max_magnitude if two_sided else 0.0, max_magnitude, n_steps)


@torch.no_grad()
def compute(
    decomposition: Decomposition,
    features: Sequence[int],
    n_steps: int = 100,
    max_magnitude: float = 2.0,
    two_sided: bool = False,
) -> MagnitudeSweep:
    """Sweep every given feature over every magnitude, for all K instances, in one batch.

    Raises ``MicrotomeError`` for a feature out of range and for fewer than two steps.
    """
    target = decomposition.target
    n = n_inputs(target)
    for index in features:
        if not 0 <= index < n:
            raise bad_value("feature_idx", index, f"the network has {n} inputs", f"choose 0 to {n - 1}")
    magnitudes = magnitude_range(n_steps, max_magnitude, two_sided)
    weight = next(iter(decomposition.sites.values())).weight
    steps = torch.as_tensor(magnitudes, dtype=weight.dtype, device=weight.device)
    chosen = torch.eye(n, dtype=weight.dtype, device=weight.device)[list(features)]
    rows = (chosen[:, None, :] * steps[None, :, None]).reshape(-1, n)
    x = rows.expand(target.n_instances, -1, -1).contiguous()

    def unfold(values: Tensor) -> np.ndarray:
        shape = (values.shape[0], len(features), n_steps, values.shape[-1])
        return values.reshape(shape).cpu().numpy()

    outputs, inputs = decomposition.site_inputs(x)
    names = [name for name in decomposition.sites if name in inputs]
    pre = {name: decomposition.sites[name].apply(inputs[name]) for name in names}
    post = {name: _after(i, names, pre[name], inputs, outputs) for i, name in enumerate(names)}
    importances = decomposition.causal_importances(x) or {}
    return MagnitudeSweep(
        magnitudes=magnitudes,
        features=np.asarray(features, dtype=np.int64),
        outputs=unfold(outputs),
        pre={name: unfold(values) for name, values in pre.items()},
        post={name: unfold(values) for name, values in post.items()},
        gate_inputs={name: unfold(of.inner) for name, of in importances.items()},
        gate_outputs={name: unfold(of.gate) for name, of in importances.items()},
        lower={name: unfold(of.lower) for name, of in importances.items()},
        upper={name: unfold(of.upper) for name, of in importances.items()},
    )


def _after(
    index: int, names: Sequence[str], pre: Tensor, inputs: Mapping[str, Tensor], outputs: Tensor
) -> Tensor:
    """A site's output as the network uses it next: the next site's input, or the network's output."""
    follower = inputs[names[index + 1]] if index + 1 < len(names) else outputs
    return follower if follower.shape == pre.shape else pre


def shows_neurons(site: str, sites: Sequence[str]) -> bool:
    """Whether a site's outputs are neurons: neither the network's output nor part of a residual stream."""
    return site != list(sites)[-1] and not site.endswith(".mlp_out")
