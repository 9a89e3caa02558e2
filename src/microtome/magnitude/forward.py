"""What a sweep records of one batch of inputs: neurons, outputs, gates, all in one forward pass."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.core.errors import CannotLoad
from microtome.decomposition.network import SiteInput, network_of, project
from microtome.decomposition.result import Decomposition
from microtome.decomposition.streams import Stream, Term, multiply_terms
from microtome.magnitude.gates import gate_arrays
from microtome.targets.module_target import ModuleTarget
from microtome.targets.network import Target
from microtome.targets.resid_mlp import ResidMLP

# How a nonlinearity is recognised: the next site's input is one of these, of this site's output.
NONLINEARITIES: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda h: h,
    "relu": torch.relu,
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": lambda h: torch.nn.functional.gelu(h, approximate="tanh"),
    "silu": torch.nn.functional.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "leaky_relu": torch.nn.functional.leaky_relu,
    "elu": torch.nn.functional.elu,
    "softplus": torch.nn.functional.softplus,
}

SOME_ROWS = 64  # tried before all are


class Recorder:
    """Runs a decomposed network and hands out named arrays.

    ``outputs``; for sites whose outputs are neurons ``pre/<site>`` and ``post/<site>``; for every decomposed
    site with gates ``gate_inputs/<site>``, ``gate_outputs/<site>``, ``lower/<site>``, ``upper/<site>``, for
    one without ``activations/<site>`` (the norm of what each component writes). ``kinds`` limits the arrays.
    """

    def __init__(self, decomposition: Decomposition, kinds: tuple[str, ...] | None = None) -> None:
        self.decomposition = decomposition
        self.kinds = kinds
        self.network = network_of(decomposition.target)
        self.order = list(self.network.all_sites)
        self._residual = isinstance(decomposition.target, ResidMLP)

    def wanted(self, kind: str) -> bool:
        """Whether arrays of this kind are recorded."""
        return self.kinds is None or kind in self.kinds

    @torch.no_grad()
    def __call__(self, x: Float[Tensor, "K N n"]) -> dict[str, Float[Tensor, "K N _"]]:
        """Every array for the rows ``x``."""
        seen: dict[str, SiteInput] = {}

        def site(name: str, inputs: SiteInput) -> list[Term]:
            seen.pop(name, None)  # a site that runs again moves to the end
            seen[name] = inputs
            return project(inputs, self.network.sites[name].weight)

        self.network.begin_step()
        output = self.network.run(x, site)
        self.order = list(seen)
        found: dict[str, Tensor] = {"outputs": output} if self.wanted("outputs") else {}
        if self.wanted("pre") or self.wanted("post"):
            found |= self._neurons(seen, output)
        for name in self.decomposition.sites:
            if name in seen:
                found |= self._components(name, seen[name])
        return found

    def _neurons(self, seen: Mapping[str, SiteInput], output: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        names = list(seen)
        for index, name in enumerate(names):
            if not self.shows_neurons(name, output):
                continue
            own = self.network.all_sites[name]
            pre = multiply_terms(project(seen[name], own.weight))
            if own.bias is not None:
                pre = pre + own.bias.unsqueeze(1)
            follower = seen[names[index + 1]] if index + 1 < len(names) else output
            found[f"pre/{name}"] = pre
            found[f"post/{name}"] = after(pre, follower)
        return {key: value for key, value in found.items() if self.wanted(key.split("/")[0])}

    def shows_neurons(self, name: str, output: Tensor) -> bool:
        """Whether a site's outputs are neurons: not the network's output, no part of a residual stream."""
        width = self.network.all_sites[name].weight.shape[-1]
        is_output = name == self.order[-1] and width == output.shape[-1]
        return not is_output and not (self._residual and name.endswith(".mlp_out"))

    def _components(self, name: str, inputs: SiteInput) -> dict[str, Tensor]:
        arrays = gate_arrays(self.decomposition, name, inputs, self.wanted)
        return {f"{kind}/{name}": values for kind, values in arrays.items() if self.wanted(kind)}


def after(pre: Float[Tensor, "K N d"], follower: SiteInput) -> Float[Tensor, "K N d"]:
    """What the network makes of a site's output by its nonlinearity; ``pre`` itself where none is recognised.

    Recognised by value: the next site's input must equal one of ``NONLINEARITIES`` of ``pre``.
    """
    if isinstance(follower, Stream):
        return pre
    used = follower.reshape(follower.shape[0], -1, follower.shape[-1])
    if used.shape != pre.shape:
        return pre
    some = slice(None, None, max(1, pre.shape[1] // SOME_ROWS))
    for apply in NONLINEARITIES.values():
        if _alike(apply(pre[:, some]), used[:, some]) and _alike(apply(pre), used):
            return used
    return pre


def _alike(one: Tensor, other: Tensor) -> bool:
    """Equal up to single precision's rounding of the largest."""
    return float((one - other).abs().max()) <= 1e-5 * float(other.abs().max()) + 1e-12


def n_inputs(decomposition: Decomposition) -> int:
    """Number of input features of a decomposed network.

    Raises ``CannotLoad`` for one whose inputs are no vectors.
    """
    target, spec = decomposition.target, decomposition.data or {}
    shape = spec.get("shape")
    if spec.get("kind") == "arrays" and shape is not None and len(shape) != 2:
        raise CannotLoad(
            f"model_path: takes inputs of shape {list(shape[1:])}, not vectors of features;"
            " a magnitude sweep needs a network that does"
        )
    if spec.get("kind") == "arrays" and shape is not None:
        return int(shape[-1])
    return _input_width(target)


def _input_width(target: Target) -> int:
    """What the embedding or the first site reads; of a user's module, whose order is not known, what fits."""
    embedding = getattr(target, "W_E", None)
    if isinstance(embedding, Tensor):
        return embedding.shape[-2]
    weights = [site.weight for site in target.sites().values()]
    widths = list(dict.fromkeys(weight.shape[1] for weight in weights))
    if isinstance(target, ModuleTarget):
        widths.sort(
            key=lambda width: not _runs_on(target, weights[0].new_zeros(target.n_instances, 1, width))
        )
    return widths[0]


def _runs_on(target: Target, x: Tensor) -> bool:
    try:
        with torch.no_grad():
            target(x)
    except (RuntimeError, ValueError, TypeError, IndexError):
        return False
    return True


def row_floats(recorder: Recorder) -> int:
    """Roughly how many numbers the forward pass of one row holds at a time, over all instances."""
    sites = recorder.network.all_sites.values()
    widths = sum(sum(site.weight.shape[1:]) for site in sites)
    inner = [4 * left.shape[1] * left.shape[-1] for left, _ in recorder.decomposition.factors.values()]
    return recorder.decomposition.n_instances * (widths + max(inner, default=0) + sum(inner) // 2)
