"""Any ``nn.Module`` built of ``nn.Linear`` as a target: sites chosen by name patterns."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from microtome.core.errors import MicrotomeError, bad_value
from microtome.targets.batched import check_instances
from microtome.targets.module_spec import module_spec
from microtome.targets.network import Site, SiteFunction, Target


class ModuleTarget(Target):
    """A frozen copy of ``module`` in evaluation mode; ``nn.Linear`` layers that match ``patterns`` are sites.

    The module gets ``[K*B, ...]``: the K instances share its weights. A layer that runs twice in one pass,
    and layers that share one weight tensor, are one site, handed to the site function at every use. A layer
    whose weight is another one's transpose in the same memory is ``tied_to`` it.
    ``output`` names the attribute, key or position to take when the module does not return a tensor.
    ``sharing`` is for loading: which layers shared weights when the run was made, out of ``spec()``.

    Raises MicrotomeError when a pattern matches no ``nn.Linear``.
    """

    def __init__(
        self,
        module: nn.Module,
        patterns: Sequence[str] = ("*",),
        n_instances: int = 1,
        output: str | int | None = None,
        sharing: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        super().__init__()
        if n_instances < 1:
            raise bad_value("n_instances", n_instances, "no instance", "use 1 or more")
        self.module = copy.deepcopy(module).requires_grad_(False).eval()
        self.patterns = list(patterns)
        self.n_instances = n_instances
        self.output = output
        if sharing is None:  # looked up before copying, which would part what shares memory
            names = _matching_layers(module, self.patterns)
            sharing = {"layers": names, "tied": _transposed_layers(module, names)}
        self._sharing = {key: dict(value) for key, value in sharing.items()}
        self._names, self._tied = self._sharing["layers"], self._sharing["tied"]

    def train(self, mode: bool = True) -> "ModuleTarget":  # noqa: ARG002
        """Stays in evaluation mode: dropout and batch statistics would change the network being explained."""
        return self

    def sites(self) -> dict[str, Site]:
        """Matching layers in the order of definition, each distinct weight once."""
        sites: dict[str, Site] = {}
        for name in dict.fromkeys(self._names.values()):
            layer = self._layer(name)
            weight = layer.weight.T.expand(self.n_instances, -1, -1)
            bias = None if layer.bias is None else layer.bias.expand(self.n_instances, -1)
            sites[name] = Site(name, weight, bias, self._tied.get(name))
        return sites

    def forward(
        self, x: Float[Tensor, "K B *d_in"], site: SiteFunction | None = None
    ) -> Float[Tensor, "K B *d_out"]:
        """The module's output for every row.

        Raises MicrotomeError when a site did not run (a fused kernel, or a layer that is never called),
        because masking it would silently change nothing.
        """
        rows = x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])
        if site is None:
            out = self.module(rows)
        else:
            used: set[str] = set()
            with self._replaced(site, x.shape[0], used):
                out = self.module(rows)
            self._check_all_ran(used)
        out = self._tensor(out)
        if out.shape[:1] != rows.shape[:1]:
            raise MicrotomeError(
                f"{type(self.module).__name__}: {rows.shape[0]} rows in, output of shape {list(out.shape)}; "
                "wrap the module so that the batch is the first axis of its output"
            )
        return out.reshape(*x.shape[:2], *out.shape[1:])

    def select(self, instances: Sequence[int]) -> "ModuleTarget":
        check_instances(instances, self.n_instances)
        return ModuleTarget(self.module, self.patterns, len(instances), self.output, self._sharing)

    def spec(self) -> dict[str, Any]:
        return {
            "kind": "module",
            "module": module_spec(self.module),
            "patterns": self.patterns,
            "n_instances": self.n_instances,
            "output": self.output,
            "sharing": self._sharing,
        }

    @contextmanager
    def _replaced(self, site: SiteFunction, n_instances: int, used: set[str]) -> Iterator[None]:
        """Swap the sites' ``forward`` for ``site`` and back, whatever happens in between.

        An attribute on the instance hides the class's method, so the original layer is never computed.
        """
        fast_path = torch.backends.mha.get_fastpath_enabled()
        swapped: list[nn.Linear] = []
        try:
            # The fused transformer kernel reads the weights itself and would pass the sites by.
            torch.backends.mha.set_fastpath_enabled(False)
            for own_name, name in self._names.items():
                layer = self._layer(own_name)
                layer.forward = self._site_call(own_name, name, site, n_instances, used)
                swapped.append(layer)
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast_path)
            for layer in swapped:
                layer.__dict__.pop("forward", None)

    def _site_call(
        self, own_name: str, name: str, site: SiteFunction, n_instances: int, used: set[str]
    ) -> Any:
        correction = self._bias_difference(own_name, name)

        def call(value: Tensor) -> Tensor:
            used.add(own_name)
            if value.shape[0] % n_instances:
                raise MicrotomeError(
                    f"{own_name}: input of shape {list(value.shape)} cannot be split into {n_instances} "
                    "instances; wrap the module so that the batch is the first axis, or use one instance"
                )
            batched = value.reshape(n_instances, value.shape[0] // n_instances, *value.shape[1:])
            out = site(name, batched)
            out = out.reshape(*value.shape[:-1], out.shape[-1])
            return out if correction is None else out + correction

        return call

    def _bias_difference(self, own_name: str, name: str) -> Tensor | None:
        """What layers that share a weight but not a bias have to add to the shared site's output."""
        own, shared = self._layer(own_name).bias, self._layer(name).bias
        if own is shared:
            return None
        zero = torch.zeros_like(self._layer(name).weight[:, 0])
        return (zero if own is None else own) - (zero if shared is None else shared)

    def _check_all_ran(self, used: set[str]) -> None:
        idle = [name for name in self._names if name not in used]
        if idle:
            raise MicrotomeError(
                f"site {idle[0]!r} did not run in the forward pass, so that masking it would change nothing; "
                f"leave it out of the patterns {self.patterns}"
            )

    def _layer(self, name: str) -> nn.Linear:
        layer = self.module.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        return layer

    def _tensor(self, out: Any) -> Tensor:
        if self.output is not None:
            chosen = _part(out, self.output)
            if not isinstance(chosen, Tensor):
                problem = f"no such tensor in a {type(out).__name__}"
                raise bad_value("output", self.output, problem, "name one it has")
            return chosen
        if not isinstance(out, Tensor):
            raise MicrotomeError(
                f"{type(self.module).__name__} returns a {type(out).__name__}, not a tensor; "
                "name the part to compare with output=..., such as output='logits' or output=0"
            )
        return out


def _part(out: Any, name: str | int) -> Any:
    """What ``out`` holds under a key, at a position or as an attribute; None when there is no such thing."""
    if isinstance(out, dict):
        return out.get(name)
    if isinstance(name, int):
        return out[name] if isinstance(out, (tuple, list)) and -len(out) <= name < len(out) else None
    return getattr(out, name, None)


def _matching_layers(module: nn.Module, patterns: Sequence[str]) -> dict[str, str]:
    """Every distinct matching layer's name to its site's: the first matching layer with the same weight."""
    layers = {
        name: layer
        for name, layer in module.named_modules(remove_duplicate=False)
        if isinstance(layer, nn.Linear)
    }
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in layers):
            shown = ", ".join(layers) or "none: it has no nn.Linear"
            raise bad_value("target_module_patterns", pattern, "matches no site", f"there are: {shown}")
    names: dict[str, str] = {}
    seen: set[int] = set()
    first_with_weight: dict[int, str] = {}
    for name, layer in layers.items():
        if id(layer) in seen or not any(fnmatchcase(name, pattern) for pattern in patterns):
            continue
        seen.add(id(layer))
        weight = layer._parameters.get("weight")  # None when computed anew at every use, as by weight_norm
        names[name] = name if weight is None else first_with_weight.setdefault(id(weight), name)
    return names


def _transposed_layers(module: nn.Module, names: Mapping[str, str]) -> dict[str, str]:
    """Sites whose weight is, in the same memory, the transpose of an earlier site's."""
    tied: dict[str, str] = {}
    memory: dict[tuple[Any, ...], str] = {}
    for name in dict.fromkeys(names.values()):
        weight = module.get_submodule(name)._parameters.get("weight")
        if weight is None:
            continue
        own = (weight.data_ptr(), tuple(weight.shape), weight.stride())
        transposed = (weight.data_ptr(), tuple(weight.shape)[::-1], weight.stride()[::-1])
        if transposed != own and transposed in memory:
            tied[name] = memory[transposed]
        memory.setdefault(own, name)
    return tied
