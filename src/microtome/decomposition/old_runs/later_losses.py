"""Losses and metrics of the later SPD code, by their class names, as ours. Imports no torch."""

from collections.abc import Callable, Mapping
from typing import Any

from microtome.core.errors import bad_value

Values = dict[str, Any]
Note = Callable[[str], None]

# Class name there -> our settings. The first releases called some of them otherwise.
LOSSES: dict[str, Values] = {
    "FaithfulnessLoss": {"name": "faithfulness"},
    "ImportanceMinimalityLoss": {"name": "importance_minimality"},
    "UnmaskedReconLoss": {"name": "unmasked_recon"},
    "CIMaskedReconLoss": {"name": "ci_masked_recon"},
    "CIMaskedReconLayerwiseLoss": {"name": "ci_masked_recon", "sites": "layerwise"},
    "CIMaskedReconSubsetLoss": {"name": "ci_masked_recon", "sites": "subset"},
    "CIReconLoss": {"name": "ci_masked_recon"},
    "CIReconLayerwiseLoss": {"name": "ci_masked_recon", "sites": "layerwise"},
    "StochasticReconLoss": {"name": "stochastic_recon"},
    "StochasticReconLayerwiseLoss": {"name": "stochastic_recon", "sites": "layerwise"},
    "StochasticReconSubsetLoss": {"name": "stochastic_recon", "sites": "subset"},
    "PGDReconLoss": {"name": "pgd_recon"},
    "PGDReconLayerwiseLoss": {"name": "pgd_recon", "sites": "layerwise"},
    "PGDReconSubsetLoss": {"name": "pgd_recon", "sites": "subset"},
    "PersistentPGDReconLoss": {"name": "persistent_pgd_recon"},
    "PersistentPGDReconSubsetLoss": {"name": "persistent_pgd_recon", "sites": "subset"},
    "ContinuousPGDReconLoss": {"name": "persistent_pgd_recon"},
    "ContinuousPGDReconSubsetLoss": {"name": "persistent_pgd_recon", "sites": "subset"},
    "StochasticHiddenActsReconLoss": {"name": "hidden_acts_recon"},
    "StochasticHiddenActsRecon": {"name": "hidden_acts_recon"},
    "CIHiddenActsReconLoss": {"name": "hidden_acts_recon", "masks": "ci"},
}
METRICS: dict[str, Values] = {
    "CEandKLLosses": {"name": "ce_and_kl"},
    "CIHistograms": {"name": "ci_histograms"},
    "CI_L0": {"name": "ci_l0"},
    "CIMeanPerComponent": {"name": "ci_mean_per_component"},
    "ComponentActivationDensity": {"name": "component_activation_density"},
    "IdentityCIError": {"name": "identity_ci_error"},
    "PermutedCIPlots": {"name": "permuted_ci_plots"},
    "UVPlots": {"name": "uv_plots"},
    "StochasticReconSubsetCEAndKL": {"name": "stochastic_recon_subset_ce_and_kl"},
    "SubsetReconstructionLoss": {"name": "stochastic_recon_subset_ce_and_kl"},
    "PGDMultiBatchReconLoss": {"name": "pgd_multi_batch_recon"},
    "PGDMultiBatchReconSubsetLoss": {"name": "pgd_multi_batch_recon", "sites": "subset"},
    "PGDMultiBatchReconLayerwiseLoss": {"name": "pgd_multi_batch_recon", "sites": "layerwise"},
}
_SCOPES = {
    "single_mask": "single_source",
    "batch_invariant": "repeat_across_batch",
    "per_batch": "per_batch_per_position",
    "unique_per_batch_per_token": "per_batch_per_position",
}


def our_loss(loss: Any, field: str = "loss_metric_configs") -> Values:
    """One entry of the list of losses. Raises ``MicrotomeError`` for a class that no version had."""
    entry = dict(loss) if isinstance(loss, Mapping) else {"classname": loss}
    if "classname" not in entry:
        return entry  # ours already
    name = entry.pop("classname")
    if name not in LOSSES:
        known = ", ".join(LOSSES)
        raise bad_value(f"{field}.classname", name, "no loss that can be trained with", f"use one of {known}")
    return _settings(LOSSES[name], entry)


def our_metrics(listed: Any, note: Note) -> list[Values]:
    """The list of metrics; one that we do not have is left out with a note."""
    found: list[Values] = []
    for metric in listed or []:
        entry = dict(metric) if isinstance(metric, Mapping) else {"classname": metric}
        if "classname" not in entry:
            found.append(entry)
            continue
        name = entry.pop("classname")
        start = {**LOSSES, **METRICS}.get(name)
        if start is None:
            note(f"metric {name} is left out: evaluations have no such measure")
            continue
        found.append(_settings(start, entry))
    return found


def _settings(start: Values, entry: Values) -> Values:
    """The settings of one loss or metric, on top of what its class name says."""
    inner = entry.pop("extra_init_kwargs", None) or {}
    entry = {**entry, **inner}
    name = start["name"]
    if name in ("permuted_ci_plots", "uv_plots"):
        entry.pop("sigmoid_type", None)
    if name == "importance_minimality":
        _one_exponent(entry)
    if name == "persistent_pgd_recon":
        _persistent(entry)
    if name == "stochastic_recon_subset_ce_and_kl":
        entry = {
            key: value for key, value in entry.items() if key in ("include_patterns", "exclude_patterns")
        }
    if name == "hidden_acts_recon":
        entry.pop("post_detach", None)
    return {**start, **entry}


def _one_exponent(entry: Values) -> None:
    """For a while there were two; the second was never used."""
    first = entry.pop("pnorm_1", None)
    entry.pop("pnorm_2", None)
    if first is not None:
        entry.setdefault("pnorm", first)
    if entry.get("beta") is None:
        entry.pop("beta", None)


def _persistent(entry: Values) -> None:
    """The first versions had a step size instead of an optimiser, and other names of the scopes."""
    step_size = entry.pop("step_size", None)
    if step_size is not None:
        entry.setdefault("optimizer", {"type": "sign", "step_size": step_size})
    scope = entry.get("scope")
    if isinstance(scope, str):
        scope = {"type": scope}
    if isinstance(scope, Mapping):
        scope = dict[str, Any](scope)
        kind = str(scope.get("type"))
        scope["type"] = _SCOPES.get(kind, kind)
        if "n_masks" in scope:
            scope["n_sources"] = scope.pop("n_masks")
        entry["scope"] = scope
    if entry.pop("n_samples", 1) not in (None, 1):
        raise bad_value("n_samples", "more than 1", "persistent adversaries are used once a step", "use 1")
