"""Settings of the later SPD code under our names. Imports no torch.

Its files are told from ours by keys that we have under other names. What such a file leaves out has that
code's default; our own files keep ours.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from microtome.core.errors import MicrotomeError, bad_value
from microtome.decomposition.old_runs.later_losses import our_loss, our_metrics

Values = dict[str, Any]
Note = Callable[[str], None]

# Keys that only files of the later code have.
MARKS = frozenset(
    {
        "loss_metric_configs",
        "eval_metric_configs",
        "eval_metrics",
        "metrics_fns",
        "figures_fns",
        "ci_config",
        "gate_type",
        "gate_hidden_dims",
        "use_global_ci",
        "identity_module_patterns",
        "train_log_freq",
        "pretrained_model_name",
        "ci_recon_coeff",
        "ci_recon_layerwise_coeff",
        "grad_clip_norm",
        "dist_backend",
        "profiling",
        "pgd_mask_enabled",
    }
)
# In a finished run's final_config.yaml these say the same; in ours they are settings like any other.
LATER_KEYS = MARKS | {"module_info", "ci_fn_type", "ci_fn_hidden_dims", "sigmoid_type", "use_delta_component"}
_DEFAULTS = {"sigmoid_type": "leaky_hard", "use_delta_component": True}
_RENAMED = {
    "pretrained_model_name": "pretrained_model_name_hf",
    "train_log_freq": "print_freq",
    "grad_clip_norm": "grad_clip_norm_components",
    "gate_type": "ci_fn_type",
    "gate_hidden_dims": "ci_fn_hidden_dims",
}
_RETIRED = {
    "dist_backend": "the device decides (gloo or nccl)",
    "profiling": "",
    "metrics_fns": "name them under metrics",
    "figures_fns": "pictures come with every run",
    "out_dir": "give --out_dir",
}
# Coefficients from before the list of losses -> the class names that took their place.
_COEFFICIENTS = {
    "faithfulness_coeff": "FaithfulnessLoss",
    "recon_coeff": "CIMaskedReconLoss",
    "recon_layerwise_coeff": "CIMaskedReconLayerwiseLoss",
    "ci_masked_recon_subset_coeff": "CIMaskedReconSubsetLoss",
    "stochastic_recon_coeff": "StochasticReconLoss",
    "stochastic_recon_layerwise_coeff": "StochasticReconLayerwiseLoss",
    "stochastic_recon_subset_coeff": "StochasticReconSubsetLoss",
    "out_recon_coeff": "UnmaskedReconLoss",
    "importance_minimality_coeff": "ImportanceMinimalityLoss",
}
_PAPER = tuple(name for name in _COEFFICIENTS if "subset" not in name)
_PLAIN = (("eps", 1e-12), ("beta", 0), ("beta", 0.0))
_SUBSETS = ("ci_masked_recon_subset_coeff", "stochastic_recon_subset_coeff")
_RENAMED_COEFFICIENTS = {"ci_recon_coeff": "recon_coeff", "ci_recon_layerwise_coeff": "recon_layerwise_coeff"}
_EXPONENT = ("pnorm", "p_anneal_start_frac", "p_anneal_final_p", "p_anneal_end_frac")
_SCHEDULES = {"constant": "constant", "linear": "linear", "cosine": "cosine_half"}
_GLOBAL = "global_"
_UNKNOWN_FUNCTIONS = ("reverse_residual", "shared_transformer")


def is_later(values: Mapping[str, Any]) -> bool:
    """Whether the settings are of the later SPD code."""
    return bool(MARKS & values.keys()) or isinstance(values.get("lr_schedule"), Mapping)


def as_ours(values: Mapping[str, Any], source: str, note: Note, *, finished: bool = False) -> Values:
    """The settings of a file of the later SPD code under our names, one note a renamed or retired key.

    Settings of ours are returned as they are. Raises ``MicrotomeError`` for what this version cannot train
    with; ``finished``, for the file of a run that is only read, makes that a note.
    """
    out = dict(values)
    if not finished and not is_later(out):
        return out

    def say(text: str) -> None:
        note(f"{source}: {text}")

    for name, default in _DEFAULTS.items():
        if out.get(name) is None:
            out[name] = default
    _names(out, say)
    _importance_function(out, say, finished=finished)
    _sites(out, say)
    _losses(out, say, finished=finished)
    _metrics(out, say)
    if isinstance(out.get("lr_schedule"), Mapping):
        _schedule(out, say)
    return out


def _names(out: Values, say: Note) -> None:
    for old, new in _RENAMED.items():
        if old in out:
            value = out.pop(old)
            out.setdefault(new, value)
            say(f"{old} is now called {new}")
    for old, remark in _RETIRED.items():
        if out.pop(old, None) is not None:
            say(f"{old} is no longer used" + (f": {remark}" if remark else ""))
    experimental = [key for key in out if key.startswith(("pgd_mask_", "adv_mix_"))]
    for key in experimental:
        del out[key]
    if experimental:
        say(f"{', '.join(experimental)} are no longer used: put a loss {{name: pgd_recon, ...}} under losses")


def _importance_function(out: Values, say: Note, *, finished: bool) -> None:
    """``ci_config``, and what it was before it was nested."""
    nested = out.pop("ci_config", None)
    if nested is not None:
        if not isinstance(nested, Mapping):
            raise bad_value("ci_config", nested, "not a mapping", "write {mode, fn_type, hidden_dims}")
        out["ci_fn_type"], out["ci_fn_mode"] = nested.get("fn_type"), nested.get("mode", "layerwise")
        out["ci_fn_hidden_dims"] = nested.get("hidden_dims")
        say("ci_config is now ci_fn_type, ci_fn_hidden_dims and ci_fn_mode")
    if out.pop("use_global_ci", False):
        out["ci_fn_mode"] = "global"
        say("use_global_ci is now ci_fn_mode: global")
    if out.get("ci_fn_type") is None and out.get("n_ci_mlp_neurons") is None:
        out["ci_fn_type"] = "vector_mlp"
        if out.get("ci_fn_hidden_dims") is None:
            out["ci_fn_hidden_dims"] = [8]
    kind = str(out.get("ci_fn_type") or "mlp")
    if kind.startswith(_GLOBAL):
        out["ci_fn_mode"], kind = "global", kind.removeprefix(_GLOBAL)
    if out.get("ci_fn_mode") == "global" and kind in ("mlp", "vector_mlp"):
        kind = "shared_mlp"
    if kind in _UNKNOWN_FUNCTIONS:
        if not finished:
            problem = "this version has no such causal importance function"
            raise bad_value("ci_config.fn_type", _GLOBAL + kind, problem, "use global_shared_mlp")
        say(f"ci_config.fn_type: {_GLOBAL}{kind} is kept to read only")
        kind = "shared_mlp"
    out["ci_fn_type"] = kind
    sizes = out.get("ci_fn_hidden_dims")
    if kind == "mlp" and isinstance(sizes, list) and len(sizes) <= 1:  # what the fast path trains
        out["n_ci_mlp_neurons"], out["ci_fn_hidden_dims"] = (sizes or [0])[0], None


def _sites(out: Values, say: Note) -> None:
    """``module_info``, as one C and patterns where all modules have the same."""
    patterns = out.pop("identity_module_patterns", None)
    if patterns:
        count = out.get("C", 20)
        out["identity_module_info"] = [{"module_pattern": pattern, "C": count} for pattern in patterns]
        say("identity_module_patterns is now identity_module_info, with a C for each")
    info = out.get("module_info")
    if isinstance(info, list) and info and all(isinstance(part, Mapping) for part in info):
        counts = {part.get("C") for part in info}
        out["target_module_patterns"] = [part.get("module_pattern") for part in info]
        out["C"] = max((count for count in counts if isinstance(count, int)), default=20)
        if len(counts) == 1:
            del out["module_info"]


def _losses(out: Values, say: Note, *, finished: bool) -> None:
    for name in ("embedding_recon_coeff", "is_embed_unembed_recon"):
        if out.pop(name, None):
            say(f"{name} is no longer used")
    for old, new in _RENAMED_COEFFICIENTS.items():
        if old in out:
            value = out.pop(old)
            out.setdefault(new, value)
            say(f"{old} is now called {new}")
    listed = out.pop("loss_metric_configs", None)
    if listed is not None:
        given = [name for name in (*_COEFFICIENTS, *_EXPONENT) if out.pop(name, None) is not None]
        if given:
            say(f"{', '.join(given)} are no longer used: loss_metric_configs takes their place")
        losses = _from_list(listed, say, finished=finished)
        coefficients = _as_coefficients(losses)
        if coefficients is None:
            out["losses"] = losses
            say("loss_metric_configs is now called losses, and classname is name")
        else:
            out |= coefficients
            say("loss_metric_configs: each of its losses has a coefficient, such as stochastic_recon_coeff")
    elif "losses" not in out and any(name in out for name in _COEFFICIENTS):
        _from_coefficients(out, say)


def _from_list(listed: Any, say: Note, *, finished: bool) -> list[Values]:
    found: list[Values] = []
    for entry in listed:
        try:
            found.append(our_loss(entry))
        except MicrotomeError:
            if not finished:
                raise
            say(f"loss {entry} is left out: this version does not train with it")
    return found


def _as_coefficients(losses: Sequence[Values]) -> Values | None:
    """The paper's coefficients for losses that are all the paper's; None where one is not."""
    found: Values = {**dict.fromkeys(_PAPER), "importance_minimality_coeff": 0.0}
    names = {_key(our_loss({"classname": _COEFFICIENTS[name]})): name for name in _PAPER}
    seen: set[str] = set()
    for loss in losses:
        name = names.get(_key(loss))
        rest = {key: value for key, value in loss.items() if key not in ("name", "sites", "coeff")}
        if name == "importance_minimality_coeff":
            found |= {key: rest.pop(key) for key in _EXPONENT if rest.get(key) is not None}
            rest = {key: value for key, value in rest.items() if (key, value) not in _PLAIN}
        if name is None or name in seen or any(value is not None for value in rest.values()):
            return None
        seen.add(name)
        found[name] = loss.get("coeff") or 0.0
    return found


def _key(loss: Values) -> tuple[Any, Any]:
    return loss.get("name"), loss.get("sites", "all")


def _from_coefficients(out: Values, say: Note) -> None:
    """Coefficients of before the list of losses: what is missing was left out."""
    for name in _COEFFICIENTS:
        out.setdefault(name, 1.0 if name == "faithfulness_coeff" else None)
    if out["importance_minimality_coeff"] is None:
        out["importance_minimality_coeff"] = 0.0
    subset = any(out[name] is not None for name in _SUBSETS)
    if subset:
        coefficients = {name: out.pop(name) for name in _COEFFICIENTS}
        exponent = {name: out.pop(name) for name in _EXPONENT if name in out}
        exponent = {name: value for name, value in exponent.items() if value is not None}
        out["losses"] = [
            {**our_loss({"classname": _COEFFICIENTS[name], "coeff": coefficient})}
            | (exponent if name == "importance_minimality_coeff" else {})
            for name, coefficient in coefficients.items()
            if coefficient is not None
        ]
        say("the coefficients of the losses are now the list losses")
    for name in _SUBSETS:
        out.pop(name, None)


def _metrics(out: Values, say: Note) -> None:
    listed = out.pop("eval_metric_configs", None)
    older = out.pop("eval_metrics", None)
    if listed is None and older is None:
        return
    out.setdefault("metrics", our_metrics(listed if listed is not None else older, say))
    say(f"{'eval_metrics' if listed is None else 'eval_metric_configs'} is now called metrics")


def _schedule(out: Values, say: Note) -> None:
    """``lr_schedule`` with a start value and a kind, as lr, lr_schedule, lr_warmup_pct and lr_final_frac."""
    schedule = dict(out.pop("lr_schedule"))
    kind = str(schedule.pop("fn_type", "constant"))
    if kind not in _SCHEDULES:
        raise bad_value("lr_schedule.fn_type", kind, "unknown", "use constant, linear or cosine")
    start = schedule.pop("start_val", None)
    if start is not None:
        out["lr"] = start
    out["lr_schedule"], out["lr_warmup_pct"] = _SCHEDULES[kind], schedule.pop("warmup_pct", 0.0)
    end = schedule.pop("final_val_frac", 1.0)
    if kind != "constant":
        out["lr_final_frac"] = end
    for left in schedule:
        raise bad_value(
            "lr_schedule", left, "unknown key", "use start_val, warmup_pct, final_val_frac, fn_type"
        )
    say("lr_schedule: its parts are now lr, lr_schedule, lr_warmup_pct and lr_final_frac")
