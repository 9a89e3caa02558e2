"""A finished (or stopped) decomposition: the target, its components, and what can be asked of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from microtome.core.errors import CannotLoad
from microtome.core.runs import RunFolder
from microtome.core.tensor_files import load_state_dict, read_safetensors
from microtome.decomposition.apd_components import site_factors
from microtome.decomposition.causal_importance.functions import CausalImportanceFunction
from microtome.decomposition.causal_importance.sigmoids import sigmoid_pair
from microtome.decomposition.config import DecompositionConfig, config_from_mapping
from microtome.decomposition.gates import GateWeights
from microtome.decomposition.importance_functions import ImportanceFunctions
from microtome.decomposition.loop_state import NOT_PARAMETERS
from microtome.decomposition.masked_forward import CallMasks, masked_forward
from microtome.decomposition.network import PlainNetwork
from microtome.decomposition.old_runs.find import Located, locate
from microtome.decomposition.old_runs.read import read_old_run
from microtome.decomposition.site_counts import site_patterns
from microtome.decomposition.site_masks import MaskedNetwork
from microtome.decomposition.spd_config import SPDConfig
from microtome.decomposition.stored_target import latest_state
from microtome.decomposition.subcomponents import Subcomponents
from microtome.targets.loading import build
from microtome.targets.network import Site, Target, times

Factors = dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class CausalImportance:
    """What the gates say of a batch: inner activations, gate outputs, and both sigmoids of them."""

    inner: Float[Tensor, "K B C"]
    gate: Float[Tensor, "K B C"]
    lower: Float[Tensor, "K B C"]
    upper: Float[Tensor, "K B C"]


class Decomposition:
    """K decompositions side by side: ``factors[site] = (left [K, C, d_in, m], right [K, C, m, d_out])``.

    SPD's subcomponents have m = 1 and gates; APD's components have a larger m and none. C may differ by
    site. ``run`` is None for what is not a run folder of ours; ``source`` is where it was read from.
    ``notes``: what an original code's configuration says beyond ``config``.
    """

    def __init__(
        self,
        config: DecompositionConfig,
        target: Target,
        parameters: Mapping[str, Tensor],
        data: Mapping[str, Any] | None = None,
        run: RunFolder | None = None,
        *,
        sites: Sequence[str] | None = None,
        sigmoid_type: str | None = None,
        name: str = "",
        source: Path | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.config, self.target, self.data, self.run = config, target, data, run
        self.method: str = config.method
        self.parameters = {name: tensor.detach() for name, tensor in parameters.items()}
        self.network = PlainNetwork(target, _patterns(config) if sites is None else sites)
        self.sites: dict[str, Site] = self.network.sites
        self.sigmoid_type = sigmoid_type or getattr(config, "sigmoid_type", "paper")
        self.source = run.path if source is None and run is not None else source
        self.notes = tuple(notes)
        self._name = name or (run.path.resolve().name.removeprefix("decompose-") if run is not None else "")

    @property
    def name(self) -> str:
        """A short name for files made of it: the run folder's, the W&B run's id, or the model file's."""
        return self._name or f"{self.method}-{type(self.target).__name__.lower()}"

    @property
    def n_instances(self) -> int:
        """K: target instances times seeds."""
        return self.target.n_instances

    @cached_property
    def masked_network(self) -> MaskedNetwork:
        """The target as losses run it: a mask for every call of a site, with delta component and routing."""
        return MaskedNetwork(self.target, list(self.sites))

    @cached_property
    def importance_functions(self) -> ImportanceFunctions | None:
        """The causal importance functions of all sites; None for APD."""
        if self.method != "spd":
            return None
        counts = {name: left.shape[1] for name, (left, _) in self.factors.items()}
        return ImportanceFunctions.from_parameters(self.parameters, self.sites, counts)

    @cached_property
    def ci_fns(self) -> dict[str, CausalImportanceFunction]:
        """Each site's own causal importance function; none for APD, or where one reads all sites."""
        functions = self.importance_functions
        return {} if functions is None or functions.is_global else dict(functions.by_site)

    @cached_property
    def subcomponents(self) -> Subcomponents | None:
        """SPD's factors and gates as the trainer has them; None for APD.

        Its ``gates`` leave out what the trainer has no kernels for: other kinds of functions and sigmoids.
        """
        if self.method == "apd":
            return None
        plain = {n: f.weights for n, f in self.ci_fns.items() if "w_in" in f.weights}
        gates = {n: GateWeights(**w) for n, w in plain.items()} if self.sigmoid_type == "paper" else {}
        factors = {n: (left.squeeze(-1).mT, right.squeeze(2)) for n, (left, right) in self.factors.items()}
        return Subcomponents(factors, gates, {})

    @cached_property
    def factors(self) -> Factors:
        """Left and right factors of every site."""
        if self.method == "apd":
            return site_factors(self.sites, self.parameters)
        found: Factors = {}
        for name, site in self.sites.items():
            if f"components.{name}.V" in self.parameters:
                v, u = self.parameters[f"components.{name}.V"], self.parameters[f"components.{name}.U"]
                found[name] = (v.mT.unsqueeze(-1), u.unsqueeze(2))
            else:
                assert site.tied_to is not None, name
                left, right = found[site.tied_to]
                found[name] = (right.mT, left.mT)
        return found

    @cached_property
    def joined(self) -> Factors:
        """The factors as ``V [K, d_in, C m]`` and ``U [K, C m, d_out]``: rank by rank side by side."""
        return {
            name: (left.transpose(1, 2).flatten(2), right.flatten(1, 2))
            for name, (left, right) in self.factors.items()
        }

    def component_weights(self, site: str) -> Float[Tensor, "K C d_in d_out"]:
        """Every component's weight matrix at a site."""
        left, right = self.factors[site]
        return left @ right

    @torch.no_grad()
    def site_inputs(self, x: Shaped[Tensor, "K B *d"]) -> tuple[Tensor, dict[str, Tensor]]:
        """The target's output, and what reaches each site (of its last call) on the way to it."""
        output, seen = self.masked_network.record(x)
        return output, {name: calls[-1] for name, calls in seen.items()}

    @torch.no_grad()
    def causal_importances(self, x: Shaped[Tensor, "K B *d"]) -> dict[str, CausalImportance] | None:
        """Causal importances of every site's subcomponents (at its last call); None without gates.

        Positions beyond the batch axis are flattened into it.
        """
        functions = self.importance_functions
        if functions is None:
            return None
        lower, upper = sigmoid_pair(self.sigmoid_type)
        _, inputs = self.masked_network.record(x)
        inner = {name: [times(a, self.joined[name][0]) for a in calls] for name, calls in inputs.items()}
        out: dict[str, CausalImportance] = {}
        for name, calls in functions(inputs, inner).items():
            gate, h = (t.reshape(t.shape[0], -1, t.shape[-1]) for t in (calls[-1], inner[name][-1]))
            out[name] = CausalImportance(h, gate, lower(gate), upper(gate))
        return out

    @torch.no_grad()
    def forward(
        self, x: Shaped[Tensor, "K B *d"], masks: CallMasks | None = None
    ) -> Float[Tensor, "K B *d_out"]:
        """The output with components in place of the weights: all of them, or as ``masks`` weigh them.

        ``masks``: by site a mask ``[K, B, C]``, or a sequence with one for every call of the site; a
        ``SiteMask`` has a delta component and routing too. A site that is left out keeps the sum of its
        components. Raises ``MicrotomeError`` for an unknown site or a mask of the wrong width.
        """
        rank = next(iter(self.factors.values()))[0].shape[-1]
        return masked_forward(self.masked_network, self.joined, x, masks or {}, rank)

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{name}</td><td>{s.weight.shape[1]} x {s.weight.shape[2]}</td>"
            f"<td>{self.factors[name][0].shape[1]}</td></tr>"
            for name, s in self.sites.items()
        )
        head = "<tr><th>site</th><th>weights</th><th>components</th></tr>"
        title = f"{self.method.upper()} decomposition, {self.n_instances} instances"
        return f"<p>{title}</p><table>{head}{rows}</table>"


def _patterns(config: DecompositionConfig) -> Sequence[str]:
    return site_patterns(config) if isinstance(config, SPDConfig) else ("*",)


def load(
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    module: nn.Module | None = None,
    runs_root: str | Path = Path("runs"),
) -> Decomposition:
    """Load a decomposition: one call, wherever it has been moved to, whichever code wrote it.

    ``path``: a run folder of ours, its name, ``latest``, a model file in it, a folder or model file of the
    original APD code, the SPD paper's code or its later versions, or ``wandb:[entity/][project/][runs/]id``.
    ``module`` stands in for a user's own module that cannot be made again from what is in the files.
    Raises ``CannotLoad``.
    """
    return load_located(locate(path, runs_root), device=device, module=module)


def load_located(
    located: Located, *, device: str | torch.device = "cpu", module: nn.Module | None = None
) -> Decomposition:
    """``load`` for what has been located already."""
    if located.run is not None:
        return _load_ours(located.run, located.checkpoint if located.named else None, device, module)
    old = read_old_run(located, module)
    return Decomposition(
        old.settings.config,
        old.target.to(device),
        {name: tensor.to(device) for name, tensor in old.parameters.items()},
        old.data,
        sites=old.sites,
        sigmoid_type=old.settings.sigmoid_type,
        name=located.name,
        source=located.checkpoint,
        notes=old.settings.notes,
    )


def _load_ours(
    run: RunFolder, checkpoint: Path | None, device: str | torch.device, module: nn.Module | None
) -> Decomposition:
    found = latest_state(run)
    if found is None:
        raise CannotLoad(f"{run.path}: holds no checkpoint; the run stopped before it wrote one")
    step, tensors, extra = found
    if "target" not in extra:
        raise CannotLoad(
            f"{run.path}: not a decomposition (its checkpoint has no target); give a decompose run"
        )
    config = config_from_mapping(run.config, str(run.path / "config.yaml"))
    target = target_from(tensors, extra, module).to(device)
    parameters = {name: tensor for name, tensor in tensors.items() if not name.startswith(NOT_PARAMETERS)}
    if checkpoint is not None and checkpoint.name != f"step_{step}.safetensors":
        parameters = parameters_in(checkpoint, list(parameters))
    on_device = {name: tensor.to(device) for name, tensor in parameters.items()}
    return Decomposition(config, target, on_device, extra.get("data"), run)


def parameters_in(path: Path, names: Sequence[str]) -> dict[str, Tensor]:
    """The named trained tensors in a checkpoint or in a documented model file. Raises ``CannotLoad``."""
    state = read_safetensors(path)[0] if path.suffix == ".safetensors" else load_state_dict(path)
    # Model files of APD hold A itself, as the original code's do.
    state |= {f"{n}_T": t.mT for n, t in state.items() if n.endswith(".A")}
    missing = [name for name in names if name not in state]
    if missing:
        raise CannotLoad(f"{path}: has no tensor {missing[0]}; give a model file that this run wrote")
    return {name: state[name] for name in names}


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
