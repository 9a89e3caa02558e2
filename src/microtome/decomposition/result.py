"""A finished (or stopped) decomposition: the target, its components, and what can be asked of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from microtome.core.errors import CannotLoad
from microtome.core.references import open_run
from microtome.core.runs import RunFolder
from microtome.decomposition.apd_components import site_factors
from microtome.decomposition.config import DecompositionConfig, config_from_mapping
from microtome.decomposition.gates import gate_values, lower_leaky, upper_leaky
from microtome.decomposition.network import PlainNetwork, SiteInput, project
from microtome.decomposition.streams import Term
from microtome.decomposition.subcomponents import Subcomponents, subcomponents_from
from microtome.targets.loading import build
from microtome.targets.network import Site, Target

Factors = dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class CausalImportance:
    """What the gates say of a batch: inner activations, gate outputs, and both leaky sigmoids of them."""

    inner: Float[Tensor, "K B C"]
    gate: Float[Tensor, "K B C"]
    lower: Float[Tensor, "K B C"]
    upper: Float[Tensor, "K B C"]


class Decomposition:
    """K decompositions side by side: ``factors[site] = (left [K, C, d_in, m], right [K, C, m, d_out])``.

    SPD's subcomponents have m = 1 and gates; APD's components have a larger m and none.
    """

    def __init__(
        self,
        config: DecompositionConfig,
        target: Target,
        parameters: Mapping[str, Tensor],
        data: Mapping[str, Any] | None = None,
        run: RunFolder | None = None,
    ) -> None:
        self.config, self.target, self.data, self.run = config, target, data, run
        self.method: str = config.method
        self.parameters = {name: tensor.detach() for name, tensor in parameters.items()}
        self.network = PlainNetwork(target, getattr(config, "target_module_patterns", ("*",)))
        self.sites: dict[str, Site] = self.network.sites

    @property
    def n_instances(self) -> int:
        """K: target instances times seeds."""
        return self.target.n_instances

    @cached_property
    def subcomponents(self) -> Subcomponents | None:
        """SPD's factors and gates; None for APD."""
        return subcomponents_from(self.parameters, self.sites) if self.method == "spd" else None

    @cached_property
    def factors(self) -> Factors:
        """Left and right factors of every site."""
        if self.subcomponents is None:
            return site_factors(self.sites, self.parameters)
        named = self.subcomponents.all_factors()
        return {name: (v.mT.unsqueeze(-1), u.unsqueeze(2)) for name, (v, u) in named.items()}

    def component_weights(self, site: str) -> Float[Tensor, "K C d_in d_out"]:
        """Every component's weight matrix at a site."""
        left, right = self.factors[site]
        return left @ right

    def site_inputs(self, x: Float[Tensor, "K B *d"]) -> tuple[Tensor, dict[str, Tensor]]:
        """The target's output, and what reaches each site (of its last call) on the way to it."""
        seen: dict[str, Tensor] = {}

        def site(name: str, inputs: SiteInput) -> list[Term]:
            assert isinstance(inputs, Tensor)
            seen[name] = inputs
            return project(inputs, self.sites[name].weight)

        with torch.no_grad():
            return self.network.run(x, site), seen

    @torch.no_grad()
    def causal_importances(self, x: Float[Tensor, "K B *d"]) -> dict[str, CausalImportance] | None:
        """Causal importances of every site's subcomponents; None for a method without gates.

        Positions beyond the batch axis are flattened into it.
        """
        if self.subcomponents is None:
            return None
        _, inputs = self.site_inputs(x)
        factors = self.subcomponents.all_factors()
        out: dict[str, CausalImportance] = {}
        for name, h in inputs.items():
            inner = torch.bmm(h.reshape(h.shape[0], -1, h.shape[-1]), factors[name][0])
            gate = gate_values(inner.mT, self.subcomponents.gates[name]).mT
            out[name] = CausalImportance(inner, gate, lower_leaky(gate), upper_leaky(gate))
        return out

    @torch.no_grad()
    def forward(
        self, x: Float[Tensor, "K B *d"], masks: Mapping[str, Float[Tensor, "K B C"]] | None = None
    ) -> Float[Tensor, "K B *d_out"]:
        """The output with components in place of the weights: all of them, or as ``masks`` weigh them.

        A site that ``masks`` leaves out keeps the sum of its components.
        """
        masks = masks or {}

        def site(name: str, inputs: SiteInput) -> list[Term]:
            assert isinstance(inputs, Tensor)
            left, right = self.factors[name]
            rows = inputs.reshape(inputs.shape[0], -1, inputs.shape[-1])
            inner = torch.einsum("kbi,kcim->kbcm", rows, left)
            if name in masks:
                inner = inner * masks[name].unsqueeze(-1)
            k, n = inner.shape[:2]
            return [(inner.reshape(k, n, -1), right.reshape(k, -1, right.shape[-1]))]

        return self.network.run(x, site)

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{name}</td><td>{s.weight.shape[1]} x {s.weight.shape[2]}</td>"
            f"<td>{self.factors[name][0].shape[1]}</td></tr>"
            for name, s in self.sites.items()
        )
        head = "<tr><th>site</th><th>weights</th><th>components</th></tr>"
        title = f"{self.method.upper()} decomposition, {self.n_instances} instances"
        return f"<p>{title}</p><table>{head}{rows}</table>"


def load(
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    module: nn.Module | None = None,
    runs_root: str | Path = Path("runs"),
) -> Decomposition:
    """Load a decomposition's run folder (or ``latest``): one call, wherever the folder has been moved to.

    ``module`` stands in for a user's own module that its description cannot make again.
    Raises ``CannotLoad``.
    """
    run = open_run(str(path), runs_root=Path(runs_root), want="decompose")
    checkpoint = run.latest_checkpoint()
    if checkpoint is None:
        raise CannotLoad(f"{run.path}: holds no checkpoint; the run stopped before it wrote one")
    _, tensors, extra = checkpoint
    if "target" not in extra:
        raise CannotLoad(
            f"{run.path}: not a decomposition (its checkpoint has no target); give a decompose run"
        )
    config = config_from_mapping(run.config, str(run.path / "config.yaml"))
    target = target_from(tensors, extra, module).to(device)
    parameters = {
        name: tensor.to(device)
        for name, tensor in tensors.items()
        if not name.startswith(("target/", "optimizer/", "random/"))
    }
    return Decomposition(config, target, parameters, extra.get("data"), run)


def target_from(
    tensors: Mapping[str, Tensor], extra: Mapping[str, Any], module: nn.Module | None = None
) -> Target:
    """The frozen target that a checkpoint holds."""
    target = build(extra["target"], module)
    state = {n.removeprefix("target/"): t for n, t in tensors.items() if n.startswith("target/")}
    try:
        target.load_state_dict(state)
    except RuntimeError:
        name = extra["target"].get("module", {}).get("class", extra["target"]["kind"])
        raise CannotLoad(
            f"{name}: made from its description it does not fit its weights;"
            " pass the module yourself: microtome.load(path, module=...)"
        ) from None
    return target.requires_grad_(False).eval()
