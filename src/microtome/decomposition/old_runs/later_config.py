"""Settings of the later SPD code under the names of the SPD paper's. Imports no torch."""

from collections.abc import Callable, Mapping
from typing import Any

Values = dict[str, Any]
Note = Callable[[str], None]

LATER_KEYS = {
    "loss_metric_configs",
    "module_info",
    "ci_config",
    "ci_fn_type",
    "ci_fn_hidden_dims",
    "gate_type",
    "gate_hidden_dims",
    "sigmoid_type",
    "use_delta_component",
    "train_log_freq",
}
# The losses that both codes have: class name -> coefficient.
_LOSSES = {
    "FaithfulnessLoss": "faithfulness_coeff",
    "StochasticReconLoss": "stochastic_recon_coeff",
    "StochasticReconLayerwiseLoss": "stochastic_recon_layerwise_coeff",
    "CIMaskedReconLoss": "recon_coeff",
    "CIMaskedReconLayerwiseLoss": "recon_layerwise_coeff",
    "UnmaskedReconLoss": "out_recon_coeff",
}
_RENAMED = {
    "pretrained_model_name": "pretrained_model_name_hf",
    "train_log_freq": "print_freq",
    "ci_recon_coeff": "recon_coeff",
    "ci_recon_layerwise_coeff": "recon_layerwise_coeff",
}
_SCHEDULES = {"constant": "constant", "linear": "linear", "cosine": "cosine_half"}


def as_paper_settings(values: Mapping[str, Any], note: Note) -> tuple[Values, str | None]:
    """Every setting that we have a field for under its name there, the others left as they are with a note
    where their meaning would be lost; and the kind of causal importance function.
    """
    out = dict(values)
    for old, new in _RENAMED.items():
        if old in out:
            value = out.pop(old)
            out.setdefault(new, value)
    kind = _importance_function(out, note)
    _sites(out, note)
    if isinstance(out.get("loss_metric_configs"), list):
        _losses(out, out.pop("loss_metric_configs"), note)
    if isinstance(out.get("lr_schedule"), Mapping):
        _schedule(out, out.pop("lr_schedule"), note)
    out.pop("sigmoid_type", None)
    if out.pop("use_delta_component", False):
        note(
            "use_delta_component: what the components leave out of a weight was masked like a component;"
            " calc_weight_deltas gives it"
        )
    return out, kind


def _importance_function(out: Values, note: Note) -> str | None:
    nested = out.pop("ci_config", None)
    nested = nested if isinstance(nested, Mapping) else {}
    old_kind, old_sizes = out.pop("gate_type", None), out.pop("gate_hidden_dims", None)
    kind = out.pop("ci_fn_type", None) or nested.get("fn_type") or old_kind
    sizes = out.pop("ci_fn_hidden_dims", None) or nested.get("hidden_dims") or old_sizes
    if kind is None:
        return None
    sizes = list(sizes) if isinstance(sizes, list | tuple) else []
    if kind == "mlp" and len(sizes) == 1:
        out.setdefault("n_ci_mlp_neurons", sizes[0])
    else:
        note(f"ci_fn_type: {kind} with hidden layers {sizes}, instead of n_ci_mlp_neurons")
    return str(kind)


def _sites(out: Values, note: Note) -> None:
    """``module_info`` as patterns and one C; the checkpoint has each site's own."""
    info = out.pop("module_info", None)
    if isinstance(info, list) and info and all(isinstance(part, Mapping) for part in info):
        out["target_module_patterns"] = [str(part.get("module_pattern")) for part in info]
        counts = {str(part.get("module_pattern")): part.get("C") for part in info}
        out["C"] = max((c for c in counts.values() if isinstance(c, int)), default=1)
        if len(set(counts.values())) > 1:
            note(f"module_info: C is {counts}; the largest stands for C")
    for name in ("identity_module_info", "identity_module_patterns"):
        if out.get(name) is None:
            out.pop(name, None)


def _losses(out: Values, listed: list[Any], note: Note) -> None:
    """The list of losses as coefficients; a loss that is not in it is left out."""
    out.update(dict.fromkeys(_LOSSES.values()), importance_minimality_coeff=0.0)
    for loss in listed:
        loss = dict(loss) if isinstance(loss, Mapping) else {"classname": str(loss)}
        name, coefficient = loss.pop("classname", None), loss.pop("coeff", None)
        if name in _LOSSES:
            out[_LOSSES[name]] = coefficient
        elif name == "ImportanceMinimalityLoss":
            out["importance_minimality_coeff"] = coefficient or 0.0
            _minimality(out, loss, note)
            continue
        else:
            note(f"loss {name}, coefficient {coefficient}: this version does not train with it")
            continue
        if loss:
            note(f"loss {name}: {loss} is kept to read only")


def _minimality(out: Values, loss: Values, note: Note) -> None:
    for name in ("pnorm", "p_anneal_start_frac", "p_anneal_final_p", "p_anneal_end_frac"):
        if loss.get(name) is not None:
            out[name] = loss[name]
    if loss.get("beta"):
        note(f"loss ImportanceMinimalityLoss: beta={loss['beta']} is kept to read only")


def _schedule(out: Values, schedule: Mapping[str, Any], note: Note) -> None:
    out["lr"] = schedule.get("start_val", out.get("lr"))
    kind = schedule.get("fn_type", "constant")
    out["lr_schedule"] = _SCHEDULES.get(str(kind), "constant")
    out["lr_warmup_pct"] = schedule.get("warmup_pct", 0.0)
    if kind not in _SCHEDULES:
        note(f"lr_schedule: {kind} is unknown; read as constant")
    if schedule.get("final_val_frac") and kind != "constant":
        note(f"lr_schedule: final_val_frac={schedule['final_val_frac']} is kept to read only")


def as_ours(values: Mapping[str, Any], source: str, note: Note) -> Values:
    """The settings of a file of the later SPD code under our names, one note a renamed or retired key."""
    del source, note
    return dict(values)
