"""What a decomposition found: numbers for the summary and arrays for the pictures."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from microtome.core.runs import RunFolder
from microtome.core.seeds import generator
from microtome.data.images import ArrayData, digits
from microtome.data.loading import DataSource
from microtome.data.token_windows import TokenWindows
from microtome.decomposition.apd import APD
from microtome.decomposition.apd_config import APDConfig
from microtome.decomposition.apd_plain import attributions
from microtome.decomposition.attribution.topk import exact_counts, topk_mask
from microtome.decomposition.config import DecompositionConfig
from microtome.decomposition.evaluation.output_errors import next_tokens
from microtome.decomposition.evaluation.recon import Recon
from microtome.decomposition.evaluation.seen import see
from microtome.decomposition.evaluation.series import recovered
from microtome.decomposition.full_spd import FullSPD
from microtome.decomposition.losses.faithfulness import faithfulness_loss
from microtome.decomposition.losses.reconstruction import reconstruction_loss
from microtome.decomposition.masks import Draws, stochastic_mask
from microtome.decomposition.result import CausalImportance, Decomposition
from microtome.decomposition.spd import SPD
from microtome.measures.causal_importance import activation_frequency, alive_counts, identity_error, l0
from microtome.measures.recovery import measure_recovery
from microtome.targets.mlp import MLP
from microtome.targets.resid_mlp import ResidMLP
from microtome.targets.tms import TMS

PROBE = 0.75  # value of the one feature that is on, as in the papers' pictures
ROWS = 2048
DEAD_RATIO = 0.1  # a component shorter than this share of a feature's weights does not stand for the feature
HISTOGRAM_EDGES = np.linspace(-0.1, 1.1, 61)
Arrays = dict[str, np.ndarray]


class Reporter:
    """Numbers along the way that are no losses: L0 of each site on fresh inputs."""

    def __init__(self, method: SPD | FullSPD | APD, data: DataSource) -> None:
        self.method, self.data = method, data

    def report(self, step: int) -> dict[str, Tensor]:
        """``l0/<site>`` per instance; draws from a stream of its own."""
        if isinstance(self.method, APD):
            return {}
        method = self.method
        device = next(iter(method.parameters.values())).device
        draws = generator(method.config.seed, device, f"report {step}")
        rows = batch_rows(method.config, self.data, 512)
        x = self.data.batch(rows, draws, n_instances=method.n_instances)
        found = _importances(_as_result(method), x)
        return {f"l0/{site}": (ci.lower > 0).sum(-1).float().mean(-1) for site, ci in found.items()}


def batch_rows(config: DecompositionConfig, data: DataSource, rows: int) -> int:
    """Rows to measure on: ``rows`` of vectors; of text or images, with long rows, an evaluation batch."""
    long = isinstance(data, ArrayData) and (data.x.ndim > 2 or not data.x.is_floating_point())
    if not (long or isinstance(data, TokenWindows)):
        return rows
    return min(rows, getattr(config, "eval_batch_size", None) or config.batch_size)


def _as_result(method: SPD | FullSPD) -> Decomposition:
    return Decomposition(method.config, method.target, method.parameters)


def _importances(d: Decomposition, x: Tensor) -> dict[str, CausalImportance]:
    found = d.causal_importances(x)
    return {} if found is None else found


def store_results(run: RunFolder, d: Decomposition, data: DataSource) -> dict[str, Any]:
    """Measure everything, store the arrays that the pictures are drawn from, and return the summary."""
    device = next(iter(d.parameters.values())).device
    rows = batch_rows(d.config, data, ROWS)
    x = data.batch(rows, generator(d.config.seed, device, "evaluation"), n_instances=d.n_instances)
    run.save_arrays("weights", _weight_arrays(d))
    summary: dict[str, Any] = {"method": d.method, "steps": d.config.steps, "seeds": d.n_instances}
    summary |= _losses(d, x)
    if isinstance(d.target, TMS) and "linear1" in d.sites:
        summary |= _recovery(run, d)
    if d.method == "spd":
        summary |= _store_importances(run, d, x)
    else:
        summary |= _store_attributions(run, d, x)
    if isinstance(d.target, ResidMLP):
        run.save_arrays("embedding", {name: _each(d, getattr(d.target, name)) for name in ("W_E", "W_U")})
    if isinstance(d.target, MLP) and isinstance(data, ArrayData) and data.y is not None:
        summary |= _classifier(run, d, data)
    if isinstance(data, TokenWindows):
        summary |= _cross_entropies(d, x)
    return summary


def _cross_entropies(d: Decomposition, x: Tensor) -> dict[str, Any]:
    """Mean cross-entropy of the next token under each masking, and the share of it that comes back."""
    measured = Recon(("unmasked", "ci", "stochastic", "ablated"), hidden=False)
    measured.update(see(d, x, next_tokens(x), Draws(d.config.seed)))
    ce = {name.removeprefix("ce/"): s.mean for name, s in measured.series.items() if name.startswith("ce/")}
    share = recovered(ce["target"], ce["ci"], ce["ablated"])
    words = {"unmasked": "all_components", "ci": "causal_importance"}
    found = {f"cross_entropy_{words.get(name, name)}": value.tolist() for name, value in ce.items()}
    return {**found, "ce_recovered_causal_importance": share.tolist()}


def _each(d: Decomposition, shared: Tensor) -> np.ndarray:
    return shared.detach().expand(d.n_instances, -1, -1).cpu().numpy()


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def _weight_arrays(d: Decomposition) -> Arrays:
    arrays: Arrays = {}
    for name, site in d.sites.items():
        left, right = d.factors[name]
        arrays |= {f"target/{name}": _numpy(site.weight), f"left/{name}": _numpy(left)}
        arrays[f"right/{name}"] = _numpy(right)
    return arrays


@torch.no_grad()
def _losses(d: Decomposition, x: Tensor) -> dict[str, Any]:
    """Faithfulness, and output errors under each masking, per instance."""
    kind = "mse" if isinstance(d.config, APDConfig) else d.config.output_loss_type
    wanted = d.target(x)
    weight = wanted.new_ones(x.shape[:2])

    def error(output: Tensor) -> list[float]:
        return reconstruction_loss(output, wanted, weight, x.shape[1], kind).tolist()

    summed = {name: (_joined(left), right.flatten(1, 2)) for name, (left, right) in d.factors.items()}
    out: dict[str, Any] = {
        "faithfulness": faithfulness_loss(d.sites, summed).tolist(),
        "output_error_all_components": error(d.forward(x)),
    }
    found = _importances(d, x)
    if found:
        lower = {name: ci.lower for name, ci in found.items()}
        draws = generator(d.config.seed, x.device, "evaluation masks")
        out["output_error_causal_importance"] = error(d.forward(x, lower))
        random = {
            name: stochastic_mask(ci, torch.rand(ci.shape, generator=draws, device=ci.device))
            for name, ci in lower.items()
        }
        out["output_error_stochastic"] = error(d.forward(x, random))
    return out


def _joined(left: Float[Tensor, "K C d_in m"]) -> Float[Tensor, "K d_in Cm"]:
    return left.transpose(1, 2).flatten(2)


def _recovery(run: RunFolder, d: Decomposition) -> dict[str, Any]:
    """MMCS and ML2R without dead components, which can point along a feature by accident, and with them."""
    parts, target = d.component_weights("linear1"), d.sites["linear1"].weight
    pairs = [(_numpy(parts[k]), _numpy(target[k])) for k in range(d.n_instances)]
    found = [measure_recovery(*pair, min_ratio=DEAD_RATIO) for pair in pairs]
    plain = [measure_recovery(*pair) for pair in pairs]
    run.save_arrays(
        "recovery",
        {
            "cosine": np.stack([r.cosine for r in found]),
            "ratio": np.stack([r.ratio for r in found]),
            "recovered": np.array([r.recovered for r in found]),
        },
    )
    return {
        "mmcs": [r.mmcs for r in found],
        "ml2r": [r.ml2r for r in found],
        "mmcs_with_dead_components": [r.mmcs for r in plain],
        "ml2r_with_dead_components": [r.ml2r for r in plain],
        "recovered_mechanisms": [r.recovered for r in found],
        "mechanisms": int(target.shape[1]),
    }


def _probe(d: Decomposition, x: Tensor) -> Tensor:
    """Inputs with one feature on, for every instance."""
    n = x.shape[-1]
    return (PROBE * torch.eye(n, device=x.device)).expand(d.n_instances, n, n)


def _store_importances(run: RunFolder, d: Decomposition, x: Tensor) -> dict[str, Any]:
    arrays: Arrays = {"histogram_edges": HISTOGRAM_EDGES}
    summary: dict[str, Any] = {"l0": {}, "alive": {}, "components": {}}
    for name, ci in _importances(d, x).items():
        lower = _numpy(ci.lower)
        summary["l0"][name] = [l0(one) for one in lower]
        summary["alive"][name] = [alive_counts(one) for one in lower]
        summary["components"][name] = lower.shape[-1]
        arrays[f"frequency/{name}"] = np.stack([activation_frequency(one) for one in lower])
        edges = HISTOGRAM_EDGES
        arrays[f"histogram/{name}"] = np.stack(
            [np.histogram(one.clip(edges[0], edges[-1]), edges)[0] for one in lower]
        )
    if isinstance(d.target, TMS | ResidMLP):
        summary["identity_error"] = {}
        for name, ci in _importances(d, _probe(d, x)).items():
            lower = _numpy(ci.lower)
            arrays |= {f"lower/{name}": lower, f"upper/{name}": _numpy(ci.upper)}
            if lower.shape[-1] >= lower.shape[-2]:
                summary["identity_error"][name] = [identity_error(one) for one in lower]
            summary["alive"][name] = [
                max(a, alive_counts(one)) for a, one in zip(summary["alive"][name], lower, strict=True)
            ]
    run.save_arrays("causal_importance", arrays)
    return summary


def _store_attributions(run: RunFolder, d: Decomposition, x: Tensor) -> dict[str, Any]:
    config = d.config
    assert isinstance(config, APDConfig)
    features = attributions(d.target, d.factors, _probe(d, x), config)
    batch = attributions(d.target, d.factors, x, config)
    arrays = {
        "features": _numpy(features),
        "batch": _numpy(batch),
        "features_on": _numpy((x != 0).sum(-1)),
    }
    summary: dict[str, Any] = {}
    if config.topk is not None:
        counts = exact_counts(x) if config.exact_topk else None
        mask = topk_mask(batch, config.topk, config.batch_topk, config.distil_from_target, counts)
        arrays["selected"] = _numpy(mask).astype(bool)
        error = d.forward(x, {name: mask.to(x.dtype) for name in d.sites}) - d.target(x)
        summary["output_error_topk"] = error.square().flatten(1).mean(1).tolist()
        summary["l0"] = [float(one.sum(-1).float().mean()) for one in mask]
        summary["alive"] = [int(one.any(0).sum()) for one in mask]
    run.save_arrays("attributions", arrays)
    return summary


@torch.no_grad()
def _classifier(run: RunFolder, d: Decomposition, data: ArrayData) -> dict[str, Any]:
    """Accuracy on held-out digits under each masking, and which classes each component fires for."""
    halves = digits()
    x = halves.test.all(d.n_instances).to(next(iter(d.parameters.values())).device)
    y = halves.test.y
    assert y is not None
    y = y.to(x.device)
    found = _importances(d, x)

    def accuracy(output: Tensor) -> list[float]:
        return (output.argmax(-1) == y).float().mean(-1).tolist()

    out: dict[str, Any] = {
        "accuracy_target": accuracy(d.target(x)),
        "accuracy_all_components": accuracy(d.forward(x)),
    }
    if not found:
        return out
    out["accuracy_causal_importance"] = accuracy(d.forward(x, {n: ci.lower for n, ci in found.items()}))
    arrays: Arrays = {"image_shape": np.array([8, 8])}
    for name, ci in found.items():
        by_class = torch.stack([ci.lower[:, y == c].mean(1) for c in range(10)], dim=1)
        arrays[f"importance/{name}"] = _numpy(by_class)
    run.save_arrays("classes", arrays)
    # On held-out images: these are the inputs that the accuracy is about.
    out["l0"] = {name: (ci.lower > 0).sum(-1).float().mean(-1).tolist() for name, ci in found.items()}
    del data
    return out
