"""Any ``nn.Module`` as a target: its layers whose weights can be decomposed, chosen by name patterns."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from microtome.core.errors import MicrotomeError, bad_value
from microtome.targets.batched import check_instances
from microtome.targets.module_copy import copied, refresh, unwrapped
from microtome.targets.module_spec import module_spec
from microtome.targets.network import Site, SiteFunction, Target
from microtome.targets.row_axes import Probe, probe
from microtome.targets.site_calls import SiteCalls
from microtome.targets.site_choice import (
    PRE_IDENTITY,
    identity_widths,
    matching_layers,
    transposed_layers,
    without,
)
from microtome.targets.site_kinds import identity, kind_of


class ModuleTarget(Target):
    """A frozen copy of ``module`` in evaluation mode; its layers that match ``patterns`` are sites.

    Sites are ``nn.Linear``, ``nn.Embedding``, transformers' ``Conv1D`` and ``nn.Conv2d`` layers.
    The module gets ``[K*B, ...]``: the K instances share its weights. A layer that runs twice in one pass,
    and layers that share one weight tensor, are one site, handed to the site function at every use. A layer
    whose weight is another one's transpose in the same memory is ``tied_to`` it: so is an unembedding that
    reads its embedding's weight. ``output`` names the attribute, key or position to take when the module
    does not return a tensor. ``identities``: patterns of layers at whose input an identity matrix is put, as
    the site ``<layer>.pre_identity``. ``sharing`` is for loading: which layers shared weights when the run
    was made, out of ``spec()``. ``copy=False`` takes the module itself, to be left alone from then on.

    Raises MicrotomeError when a pattern matches no layer that can be decomposed.
    """

    def __init__(
        self,
        module: nn.Module,
        patterns: Sequence[str] = ("*",),
        n_instances: int = 1,
        output: str | int | None = None,
        sharing: Mapping[str, Mapping[str, str]] | None = None,
        identities: Sequence[str] = (),
        *,
        copy: bool = True,
    ) -> None:
        super().__init__()
        if n_instances < 1:
            raise bad_value("n_instances", n_instances, "no instance", "use 1 or more")
        module = unwrapped(module)
        if sharing is None:  # looked up before copying, which would part what shares memory
            # Identities alone may be what is decomposed.
            names = matching_layers(module, patterns) if patterns or not identities else {}
            sharing = {"layers": names, "tied": transposed_layers(module, names)}
        self.module = (copied(module) if copy else module).requires_grad_(False).eval()
        self.patterns, self.identities = list(patterns), list(identities)
        self.n_instances = n_instances
        self.output = output
        self._names, self._tied = dict(sharing["layers"]), dict(sharing["tied"])
        self._identities = identity_widths(self.module, self.identities)
        self.probed: Probe | None = None

    @property
    def layer_names(self) -> list[str]:
        """Every layer that is replaced, those that share a site's weight too."""
        return list(self._names)

    @property
    def sharing(self) -> dict[str, dict[str, str]]:
        """Which layers share a site, and which sites are tied."""
        return {"layers": dict(self._names), "tied": dict(self._tied)}

    def drop(self, layers: Iterable[str]) -> None:
        """Leave layers as they are: they are no longer part of any site."""
        self._names, self._tied = without(self._names, self._tied, layers)

    def train(self, mode: bool = True) -> "ModuleTarget":  # noqa: ARG002
        """Stays in evaluation mode: dropout and batch statistics would change the network being explained."""
        return self

    def sites(self) -> dict[str, Site]:
        """Matching layers in the order of definition, each distinct weight once; identities before theirs."""
        k = self.n_instances
        like = next(p for p in self.module.parameters() if p.is_floating_point())
        found: dict[str, Site] = {}
        for own_name in [name for name, _ in self.module.named_modules(remove_duplicate=False)]:
            if own_name in self._identities:
                name = own_name + PRE_IDENTITY
                found[name] = Site(name, identity(self._identities[own_name], like, k), kind="identity")
            if own_name in self._names and own_name == self._names[own_name]:
                found[own_name] = self._site(own_name)
        return found

    def forward(
        self, x: Shaped[Tensor, "K B *d_in"], site: SiteFunction | None = None
    ) -> Float[Tensor, "K B *d_out"]:
        """The module's output for every row.

        Raises MicrotomeError when a site did not run (a fused kernel, or a layer that is never called),
        because masking it would silently change nothing.
        """
        rows = x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])
        if site is None:
            out = self._run(rows, None)
        else:
            calls = SiteCalls(
                self.module,
                self._names,
                list(self._identities),
                site,
                n_instances=x.shape[0],
                n_rows=rows.shape[0],
                probe=self._probe(rows),
            )
            with calls.active():
                out = self._run(rows, calls)
            calls.check_all_ran([*self.patterns, *self.identities])
        out = self._tensor(out)
        if out.shape[:1] != rows.shape[:1]:
            raise MicrotomeError(
                f"{type(self.module).__name__}: {rows.shape[0]} rows in, output of shape {list(out.shape)}; "
                "wrap the module so that the batch is the first axis of its output"
            )
        return out.reshape(*x.shape[:2], *out.shape[1:])

    def select(self, instances: Sequence[int]) -> "ModuleTarget":
        check_instances(instances, self.n_instances)
        chosen = ModuleTarget(
            self.module, self.patterns, len(instances), self.output, self.sharing, self.identities
        )
        chosen.probed = self.probed
        return chosen

    def _probe(self, rows: Tensor) -> Probe:
        """What running the module shows of its layers; looked up once."""
        if self.probed is not None:
            return self.probed
        names = [*self._names, *self._identities]
        found = probe(self.module, lambda few: self._run(few, None), names, rows)
        if found.lasting:
            self.probed = found
        return found

    def spec(self) -> dict[str, Any]:
        return {
            "kind": "module",
            "module": module_spec(self.module),
            "patterns": self.patterns,
            "n_instances": self.n_instances,
            "output": self.output,
            "sharing": self.sharing,
            "identities": self.identities,
        }

    def _run(self, rows: Tensor, calls: SiteCalls | None) -> Any:  # noqa: ARG002
        """The module's own output for ``rows``; ``calls`` says how its sites are replaced just now."""
        return self.module(rows)

    def _site(self, name: str) -> Site:
        layer = self.module.get_submodule(name)
        kind = kind_of(layer)
        assert kind is not None, name
        refresh(layer)
        weight = kind.matrix(layer).expand(self.n_instances, -1, -1)
        bias = kind.bias(layer)
        bias = None if bias is None else bias.expand(self.n_instances, -1)
        return Site(name, weight, bias, self._tied.get(name), kind.kind)

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
