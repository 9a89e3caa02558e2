"""Run folders as the three original codes wrote them, small and with known mechanisms (see ``planted``).

``write_apd_run``, ``write_spd_paper_run`` and ``write_later_spd_run`` fill a folder with final_config.yaml,
the model file, the copy of the target and its training configuration, and return what was planted. Nothing
here uses the package: these writers are the reference that its readers are tested against.
"""

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import planted as mechanisms
import torch
import yaml
from old_configs import apd_config, later_config, paper_config, target_config
from planted import Planted
from torch import Tensor

State = dict[str, Tensor]
Built = tuple[dict[str, Any], list[Planted]]


@dataclass(frozen=True)
class OldRun:
    """A folder, the model file in it, and the planted mechanisms of each instance."""

    folder: Path
    checkpoint: Path
    planted: list[Planted]


def write_apd_run(
    folder: Path,
    task: str = "tms",
    *,
    n_instances: int = 2,
    C: int = 7,
    m: int = 2,
    planted: bool = True,
    old_names: bool = False,
    with_target: bool = True,
    step: int = 20000,
    config: dict[str, Any] | None = None,
    **sizes: Any,
) -> OldRun:
    """The original APD code: ``spd_model_<step>.pth`` with A [I, C, d_in, m] and B [I, C, m, d_out].

    Component c is feature c at every site. ``old_names``: as before linear1 and mlp_in were called that.
    ``sizes``: n_features, n_hidden, n_hidden_layers, or n_features, d_embed, d_mlp, n_layers, biases.
    """
    turns = [0.3 * k for k in range(n_instances)]
    models = [_mechanisms(task, C, turn, **sizes) for turn in turns]
    if not planted:
        models = [mechanisms.unplanted(model, seed) for seed, model in enumerate(models)]
    state: State = {}
    for site in models[0].weights:
        if site == "linear2":
            continue  # linear1's factors, swapped; the file has them once
        pairs = [_by_feature(model, site, C, m, planted) for model in models]
        state[f"{site}.A"] = torch.stack([a for a, _ in pairs])
        state[f"{site}.B"] = torch.stack([b for _, b in pairs])
    for name in models[0].extra:
        state[_apd_bias(name)] = torch.stack([model.extra[name] for model in models])
    target: State = {f"{s}.weight": torch.stack([p.weights[s] for p in models]) for s in models[0].weights}
    target.pop("linear2.weight", None)
    target |= {_apd_bias(name): torch.stack([p.extra[name] for p in models]) for name in models[0].extra}
    if old_names:
        state, target = _oldest(state), _oldest(target)
    folder.mkdir(parents=True, exist_ok=True)
    _yaml(folder / "final_config.yaml", apd_config(task, C, m, step) | (config or {}))
    checkpoint = folder / f"spd_model_{step}.pth"
    torch.save(state, checkpoint)
    if with_target:
        coefficients = [[1.0 + 0.1 * k] * _n_features(models[0]) for k in range(n_instances)]
        _write_target(folder, task, target, target_config(task, models[0], n_instances), coefficients)
    return OldRun(folder, checkpoint, models)


def write_spd_paper_run(
    folder: Path,
    task: str = "tms",
    *,
    C: int = 7,
    n_ci_mlp_neurons: int = 4,
    planted: bool = True,
    with_target: bool = True,
    step: int = 40000,
    config: dict[str, Any] | None = None,
    **sizes: Any,
) -> OldRun:
    """The SPD paper's code: ``model_<step>.pth`` with components.<site>.A, .B and gates.<site>.mlp_in, ...

    ``n_ci_mlp_neurons=0``: linear gates, gates.<site>.weight, .bias (nothing planted in those: random).
    """
    model = _mechanisms(task, C, 0.0, **sizes)
    model = model if planted else mechanisms.unplanted(model)
    state = {f"model.{name}": tensor for name, tensor in _linear_target(model).items()}
    for site, (v, u) in model.parts.items():
        key = site.replace(".", "-")
        state[f"components.{key}.A"], state[f"components.{key}.B"] = v.T.contiguous(), u
        bias = _site_bias(model, site)
        if bias is not None:
            state[f"components.{key}.bias"] = bias
        state |= _paper_gate(f"gates.{key}", model, site, n_ci_mlp_neurons, planted)
    folder.mkdir(parents=True, exist_ok=True)
    written = paper_config(task, C, n_ci_mlp_neurons, step, list(model.weights))
    _yaml(folder / "final_config.yaml", written | (config or {}))
    checkpoint = folder / f"model_{step}.pth"
    torch.save(state, checkpoint)
    if with_target:
        coefficients = [1.1] * _n_features(model)
        _write_target(folder, task, _linear_target(model), target_config(task, model, None), coefficients)
    return OldRun(folder, checkpoint, [model])


def write_later_spd_run(
    folder: Path,
    task: str = "tms",
    *,
    ci_fn_type: str = "mlp",
    C: int | dict[str, int] = 7,
    hidden_dims: tuple[int, ...] = (4,),
    sigmoid_type: str = "leaky_hard",
    planted: bool = True,
    spelling: str = "_ci_fns",
    nested_ci_config: bool = False,
    with_target: bool = True,
    step: int = 10000,
    config: dict[str, Any] | None = None,
    **sizes: Any,
) -> OldRun:
    """The later SPD code: ``model_<step>.pth`` with _components.<site>.V, .U, _ci_fns.<site>.layers.<i>.W.

    ``C`` may differ by site (``{"linear1": 7, ...}``). ``ci_fn_type``: mlp, vector_mlp, shared_mlp (planted:
    two neurons for each component, whatever ``hidden_dims``). ``spelling``: _ci_fns; ci_fn (the newest,
    ci_fn._ci_fns.*); gates (_gates.*); patched (patched_model.<site>.original and .components).
    ``nested_ci_config``: ci_config and module_info, as the newest wrote them; else ci_fn_type.
    """
    counts = C if isinstance(C, dict) else None
    model = _mechanisms(task, C if isinstance(C, int) else max(C.values()), 0.0, **sizes)
    model = model if planted else mechanisms.unplanted(model)
    for site, count in (counts or {}).items():
        v, u = model.parts[site]
        model.parts[site] = v[:count], u[:count]
    state = {f"target_model.{name}": tensor for name, tensor in _linear_target(model).items()}
    for site, (v, u) in model.parts.items():
        key = site.replace(".", "-")
        state[f"_components.{key}.V"], state[f"_components.{key}.U"] = v.T.contiguous(), u
        bias = _site_bias(model, site)
        if bias is not None:
            state[f"_components.{key}.bias"] = bias
    for site in sorted(model.parts):
        layers = _ci_layers(model, site, ci_fn_type, hidden_dims, planted)
        for i, (weight, bias) in enumerate(layers):
            key = f"_ci_fns.{site.replace('.', '-')}.layers.{2 * i}"
            state[f"{key}.W"], state[f"{key}.b"] = weight, bias
    if ci_fn_type == "shared_mlp" and planted:
        hidden_dims = (2 * max(len(v) for v, _ in model.parts.values()),)
    folder.mkdir(parents=True, exist_ok=True)
    by_site = {site: len(v) for site, (v, _) in model.parts.items()}
    written = later_config(task, by_site, ci_fn_type, hidden_dims, sigmoid_type, step, nested_ci_config)
    _yaml(folder / "final_config.yaml", written | (config or {}))
    checkpoint = folder / f"model_{step}.pth"
    torch.save(_respelled(state, spelling), checkpoint)
    if with_target:
        coefficients = [1.1] * _n_features(model)
        _write_target(folder, task, _linear_target(model), target_config(task, model, None), coefficients)
    return OldRun(folder, checkpoint, [model])


def _mechanisms(task: str, C: int, turn: float, **sizes: Any) -> Planted:
    if task == "tms":
        return mechanisms.tms(C=C, turn=turn, **sizes)
    return mechanisms.resid_mlp(C=C, **sizes)


def _n_features(model: Planted) -> int:
    return len(model.extra["b_final"]) if "b_final" in model.extra else len(model.extra["W_E"])


def _site_bias(model: Planted, site: str) -> Tensor | None:
    return model.extra.get("b_final" if site == "linear2" else f"{site}.bias")


def _linear_target(model: Planted) -> State:
    """The target as nn.Linear modules hold it: out first."""
    state: State = {name: value for name, value in model.extra.items() if name in ("W_E", "W_U")}
    for site, weight in model.weights.items():
        state[f"{site}.weight"] = weight.T.contiguous()
        bias = _site_bias(model, site)
        if bias is not None:
            state[f"{site}.bias"] = bias
    return state


def _by_feature(model: Planted, site: str, C: int, m: int, planted: bool) -> tuple[Tensor, Tensor]:
    """APD's factors (A [C, d_in, m], B [C, m, d_out]): a component is one feature at every site."""
    weight = model.weights[site]
    v, u = model.parts[site]
    if planted and site.startswith("hidden_layers"):  # the identity, split along the features' directions
        first = model.weights["linear1"]
        v, u = torch.linalg.pinv(first).T, first
    if planted and site.endswith("mlp_out"):  # what the feature's neuron writes along its own direction
        w_e = model.extra["W_E"]
        reads = model.parts[site.replace("mlp_out", "mlp_in")][1][: len(w_e)]
        v = (reads != 0).float()
        u = torch.stack([(v[f] @ weight @ w_e[f]) * w_e[f] for f in range(len(w_e))])
    a, b = torch.zeros(C, weight.shape[0], m), torch.zeros(C, m, weight.shape[1])
    a[: len(v), :, 0], b[: len(u), 0] = v, u
    return a, b


def _apd_bias(name: str) -> str:
    """The APD code's residual MLP keeps its biases beside its matrices: layers.<i>.bias1, .bias2."""
    return name.replace("mlp_in.bias", "bias1").replace("mlp_out.bias", "bias2")


def _oldest(state: State) -> State:
    """The names of the first APD runs."""
    names = {"linear1.A": "A", "linear1.B": "B", "linear1.weight": "W"}
    out = {names.get(key, key): value for key, value in state.items()}
    for new, old in (("mlp_in", "linear1"), ("mlp_out", "linear2")):
        out = {
            key.replace(f".{new}.weight", f".{old}").replace(f".{new}.", f".{old}."): t
            for key, t in out.items()
        }
    return out


def _paper_gate(prefix: str, model: Planted, site: str, hidden: int, planted: bool) -> State:
    C = len(model.parts[site][0])
    if hidden == 0:
        w, b, _, _ = mechanisms.random_gate(C, 1)
        return {f"{prefix}.weight": w.reshape(C), f"{prefix}.bias": b.reshape(C)}
    if planted:
        parts = mechanisms.scalar_gate(model, site, hidden)
    else:
        w_0, b_0, w_2, b_2 = mechanisms.random_gate(C, hidden)
        parts = w_0[:, 0], b_0, w_2[..., 0], b_2[:, 0]
    return dict(
        zip((f"{prefix}.{n}" for n in ("mlp_in", "in_bias", "mlp_out", "out_bias")), parts, strict=True)
    )


def _ci_layers(
    model: Planted, site: str, kind: str, hidden_dims: tuple[int, ...], planted: bool
) -> list[tuple[Tensor, Tensor]]:
    """(W, b) of each layer of one site's causal importance function."""
    v = model.parts[site][0]
    C, d_in = v.shape
    if not planted:
        return _random_layers(C, d_in, kind, hidden_dims)
    w_in, b_in, w_out, b_out = mechanisms.scalar_gate(
        model, site, hidden_dims[0] if kind != "shared_mlp" else 2
    )
    if kind == "mlp":
        return [(w_in.unsqueeze(1), b_in), (w_out.unsqueeze(-1), b_out.unsqueeze(-1))]
    alive = (v.norm(dim=1) > 0).float()
    on_input = torch.einsum("ci,ch->cih", v, w_in)
    if kind == "vector_mlp":
        return [(on_input, b_in), (w_out.unsqueeze(-1) * alive[:, None, None], b_out.unsqueeze(-1))]
    last = torch.zeros(C, 2, C)
    last[torch.arange(C), :, torch.arange(C)] = w_out * alive[:, None]
    return [(on_input.movedim(0, 1).reshape(d_in, 2 * C), b_in.reshape(-1)), (last.reshape(2 * C, C), b_out)]


def _random_layers(C: int, d_in: int, kind: str, hidden_dims: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(C + d_in)
    each = () if kind == "shared_mlp" else (C,)
    sizes = [1 if kind == "mlp" else d_in, *hidden_dims, C if kind == "shared_mlp" else 1]
    layers = []
    for i, o in itertools.pairwise(sizes):
        weight = torch.randn(*each, i, o, generator=generator) / i**0.5
        layers.append((weight, torch.randn(*each, o, generator=generator) / 3))
    return layers


def _respelled(state: State, spelling: str) -> State:
    if spelling == "ci_fn":
        return {f"ci_fn.{k}" if k.startswith("_ci_fns.") else k: t for k, t in state.items()}
    if spelling in ("gates", "patched"):
        state = {k.replace("_ci_fns.", "_gates."): t for k, t in state.items()}
    if spelling != "patched":
        return state
    sites = {
        k.split(".")[1].replace("-", "."): k.split(".")[1] for k in state if k.startswith("_components.")
    }
    out: State = {}
    for key, tensor in state.items():
        for site, dashed in sites.items():
            key = key.replace(f"target_model.{site}.", f"patched_model.{site}.original.")
            key = key.replace(f"_components.{dashed}.", f"patched_model.{site}.components.")
        out[key.replace("target_model.", "patched_model.")] = tensor
    return out


def _write_target(
    folder: Path, task: str, state: State, config: dict[str, Any], coefficients: list[Any]
) -> None:
    torch.save(state, folder / f"{task}.pth")
    _yaml(folder / f"{task}_train_config.yaml", config)
    if task == "resid_mlp":
        (folder / "label_coeffs.json").write_text(json.dumps(coefficients))


def _yaml(path: Path, values: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(values))
