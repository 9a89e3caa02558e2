"""Runs of the three original codes, read by the package, against formulas on the tensors in the file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from old_layouts import OldRun, write_apd_run, write_later_spd_run, write_spd_paper_run
from scipy.special import erf
from torch import Tensor

from microtome.decomposition.component_model import ComponentModel, SPDRunInfo, make_mask_infos
from microtome.decomposition.result import Decomposition, load

LATER = [
    (kind, spelling, sizes)
    for kind, spelling, sizes in (
        ("mlp", "_ci_fns", (5,)),
        ("mlp", "patched", (4, 3)),
        ("vector_mlp", "ci_fn", (3,)),
        ("vector_mlp", "gates", (4, 2)),
        ("shared_mlp", "_ci_fns", (9,)),
        ("shared_mlp", "ci_fn", ()),
    )
]
SIZES = {"tms": {"n_hidden_layers": 1}, "resid_mlp": {"d_mlp": 4, "n_layers": 2, "biases": True}}


def inputs(run: OldRun, rows: int = 11) -> Tensor:
    """Rows of a size that the run's network takes, both signs."""
    extra = run.planted[0].extra
    n = len(extra["b_final"]) if "b_final" in extra else len(extra["W_E"])
    return torch.randn(rows, n, generator=torch.Generator().manual_seed(1))


def plain_forward(
    run: OldRun, x: Tensor, weights: dict[str, Tensor], k: int = 0
) -> tuple[Tensor, dict[str, Tensor]]:
    """Output and site inputs of instance k with the given in-first matrices, one row at a time."""
    planted = run.planted[k]
    seen: dict[str, list[Tensor]] = {site: [] for site in planted.weights}
    outputs = []
    for row in x:
        if "b_final" in planted.extra:
            h = row
            for site in planted.weights:
                seen[site].append(h)
                h = h @ weights[site]
            outputs.append((h + planted.extra["b_final"]).clamp(min=0))
            continue
        stream = row @ planted.extra["W_E"]
        for i in range(len(planted.weights) // 2):
            first, second = f"layers.{i}.mlp_in", f"layers.{i}.mlp_out"
            seen[first].append(stream)
            h = (stream @ weights[first] + planted.extra.get(f"{first}.bias", torch.zeros(()))).clamp(min=0)
            seen[second].append(h)
            stream = stream + h @ weights[second] + planted.extra.get(f"{second}.bias", torch.zeros(()))
        outputs.append(stream @ planted.extra["W_U"])
    return torch.stack(outputs), {site: torch.stack(rows) for site, rows in seen.items()}


def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + erf(x / np.sqrt(2)))


def gate_by_hand(state: dict[str, np.ndarray], site: str, h: np.ndarray) -> np.ndarray:
    """Gate values of one row ``h`` at a site, from the file's own tensors, component by component."""
    key = site.replace(".", "-")
    part = {n[n.index(key) + len(key) + 1 :]: t for n, t in state.items() if key in n and _is_gate(n)}
    v = next(t for n, t in state.items() if _is_left(n, site, key))
    values = []
    for c in range(v.shape[1]):
        inner = h @ v[:, c]
        if "mlp_in" in part:
            hidden = gelu(inner * part["mlp_in"][c] + part["in_bias"][c])
            values.append(hidden @ part["mlp_out"][c] + part["out_bias"][c])
        elif "weight" in part:
            values.append(inner * part["weight"][c] + part["bias"][c])
        else:
            values.append(_layers_by_hand(part, c, inner, h))
    return np.array(values)


def _layers_by_hand(part: dict[str, np.ndarray], c: int, inner: float, h: np.ndarray) -> float:
    numbers = sorted({int(name.split(".")[1]) for name in part})
    shared = part[f"layers.{numbers[0]}.W"].ndim == 2
    value = h if shared or part[f"layers.{numbers[0]}.W"].shape[1] == len(h) else np.array([inner])
    for i in numbers:
        w, b = part[f"layers.{i}.W"], part[f"layers.{i}.b"]
        value = (value if i == numbers[0] else gelu(value)) @ (w if shared else w[c]) + (
            b if shared else b[c]
        )
    return value[c] if shared else value[0]


def _is_gate(name: str) -> bool:
    return any(name.startswith(p) for p in ("gates.", "_gates.", "_ci_fns.", "ci_fn."))


def _is_left(name: str, site: str, key: str) -> bool:
    return name.endswith((f"components.{key}.A", f"components.{key}.V", f".{site}.components.V"))


def state_of(run: OldRun) -> dict[str, np.ndarray]:
    state = torch.load(run.checkpoint, weights_only=True)
    return {name: tensor.double().numpy() for name, tensor in state.items()}


def check_forward(d: Decomposition, run: OldRun, x: Tensor) -> None:
    """The target's output, its site inputs, and the output of masked components."""
    many = x.expand(d.n_instances, *x.shape)
    outputs, seen = d.site_inputs(many)
    generator = torch.Generator().manual_seed(2)
    masks = {name: torch.rand(1, 1, d.factors[name][0].shape[1], generator=generator) for name in d.sites}
    masked = d.forward(many, {name: m.expand(d.n_instances, len(x), -1) for name, m in masks.items()})
    for k in range(d.n_instances):
        expected, at_sites = plain_forward(run, x, run.planted[k].weights, k)
        torch.testing.assert_close(outputs[k], expected, rtol=1e-4, atol=1e-5)
        for name in d.sites:
            torch.testing.assert_close(seen[name][k], at_sites[name], rtol=1e-4, atol=1e-5)
        weights = {
            name: (d.component_weights(name)[k] * m[0, 0, :, None, None]).sum(0) for name, m in masks.items()
        }
        torch.testing.assert_close(masked[k], plain_forward(run, x, weights, k)[0], rtol=1e-4, atol=1e-5)


def check_importances(d: Decomposition, run: OldRun, x: Tensor) -> None:
    """Gate values of every kind, and that a ComponentModel gives the same."""
    found = d.causal_importances(x.unsqueeze(0))
    assert found is not None
    state = state_of(run)
    _, at_sites = plain_forward(run, x, run.planted[0].weights)
    model = ComponentModel.from_pretrained(run.folder)
    cis = model.calc_causal_importances(model(x, cache_type="input").cache)
    for name, ci in found.items():
        expected = np.stack([gate_by_hand(state, name, row.double().numpy()) for row in at_sites[name]])
        np.testing.assert_allclose(ci.gate[0].numpy(), expected, rtol=2e-4, atol=2e-5)
        torch.testing.assert_close(cis.pre_sigmoid[name], ci.gate[0])
        torch.testing.assert_close(cis.lower_leaky[name], ci.lower[0])
        torch.testing.assert_close(cis.upper_leaky[name], ci.upper[0])


@pytest.mark.parametrize("task", ["tms", "resid_mlp"])
@pytest.mark.parametrize("old_names", [False, True])
@pytest.mark.parametrize("planted", [False, True])
def test_apd(tmp_path: Path, task: str, old_names: bool, planted: bool) -> None:
    run = write_apd_run(tmp_path, task, old_names=old_names, planted=planted, m=3, **SIZES[task])
    d = load(tmp_path)
    assert (
        d.method == "apd"
        and d.n_instances == 2
        and d.run is None
        and d.causal_importances(inputs(run)[None].expand(2, -1, -1)) is None
    )
    check_forward(d, run, inputs(run))
    state = torch.load(run.checkpoint, weights_only=True)
    name = {
        "tms": "A" if old_names else "linear1.A",
        "resid_mlp": f"layers.1.{'linear2' if old_names else 'mlp_out'}.A",
    }[task]
    site = {"tms": "linear1", "resid_mlp": "layers.1.mlp_out"}[task]
    expected = torch.einsum("kcim,kcmo->kcio", state[name], state[name.replace("A", "B")])
    torch.testing.assert_close(d.component_weights(site), expected)
    if task == "tms":
        torch.testing.assert_close(d.component_weights("linear2"), d.component_weights("linear1").mT)


@pytest.mark.parametrize("task", ["tms", "resid_mlp"])
@pytest.mark.parametrize("neurons", [0, 5])
def test_spd_paper(tmp_path: Path, task: str, neurons: int) -> None:
    run = write_spd_paper_run(tmp_path, task, planted=False, n_ci_mlp_neurons=neurons, **SIZES[task])
    d = load(run.checkpoint)
    check_forward(d, run, inputs(run))
    check_importances(d, run, inputs(run))
    found = d.causal_importances(inputs(run).unsqueeze(0))
    assert found is not None
    gate = found[next(iter(found))].gate
    lower = torch.where(gate <= 0, 0.01 * gate, torch.where(gate < 1, gate, torch.ones(())))
    torch.testing.assert_close(found[next(iter(found))].lower, lower)
    assert (gate < 0).any() and d.config.n_ci_mlp_neurons == neurons  # pyright: ignore


@pytest.mark.parametrize("task", ["tms", "resid_mlp"])
@pytest.mark.parametrize(("kind", "spelling", "hidden_dims"), LATER)
def test_later_spd(tmp_path: Path, task: str, kind: str, spelling: str, hidden_dims: tuple[int, ...]) -> None:
    run = write_later_spd_run(
        tmp_path,
        task,
        ci_fn_type=kind,
        hidden_dims=hidden_dims,
        spelling=spelling,
        nested_ci_config=spelling == "ci_fn",
        planted=False,
        **SIZES[task],
    )
    d = load(tmp_path)
    assert {function.kind for function in d.ci_fns.values()} == {kind}
    check_forward(d, run, inputs(run))
    check_importances(d, run, inputs(run))
    found = d.causal_importances(inputs(run).unsqueeze(0))
    assert found is not None
    for ci in found.values():
        torch.testing.assert_close(ci.lower, ci.gate.clamp(0, 1))
    # The difference of weights and components is what the later code's extra component was.
    model = ComponentModel.from_pretrained(tmp_path)
    ones = {name: torch.ones(11, layer.C) for name, layer in model.components.items()}
    deltas = {name: (delta, torch.ones(11)) for name, delta in model.calc_weight_deltas().items()}
    whole = model(inputs(run), mask_infos=make_mask_infos(ones, weight_deltas_and_masks=deltas))
    torch.testing.assert_close(whole, d.target(inputs(run)[None])[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["mlp", "vector_mlp", "shared_mlp"])
def test_a_number_of_components_for_each_site(tmp_path: Path, kind: str) -> None:
    counts = {"linear1": 6, "hidden_layers.0": 3, "linear2": 8}
    run = write_later_spd_run(
        tmp_path, C=counts, ci_fn_type=kind, hidden_dims=(4,), planted=False, n_hidden_layers=1
    )
    d = load(tmp_path)
    assert {name: left.shape[1] for name, (left, _) in d.factors.items()} == counts
    check_forward(d, run, inputs(run))
    check_importances(d, run, inputs(run))
    assert ComponentModel.from_pretrained(tmp_path).module_to_c == counts
    info = SPDRunInfo.from_path(tmp_path)
    assert info.config.C == 8  # pyright: ignore


@pytest.mark.parametrize("write", [write_spd_paper_run, write_later_spd_run])
@pytest.mark.parametrize("task", ["tms", "resid_mlp"])
def test_planted_gates_open_for_their_feature_alone(tmp_path: Path, write: Any, task: str) -> None:
    run = write(tmp_path, task)
    d = load(tmp_path)
    n = inputs(run).shape[1]
    found = d.causal_importances(0.75 * torch.eye(n).unsqueeze(0))
    assert found is not None
    for ci in found.values():
        wanted = torch.zeros(n, ci.lower.shape[-1])
        wanted[torch.arange(n), torch.arange(n)] = 1.0
        torch.testing.assert_close(ci.lower[0], wanted, atol=1e-4, rtol=0)
    x = inputs(run).unsqueeze(0)
    torch.testing.assert_close(d.forward(x), d.target(x))


@pytest.mark.parametrize("sigmoid", ["normal", "hard", "upper_leaky_hard", "swish_hard", "leaky_hard"])
def test_the_runs_own_sigmoid(tmp_path: Path, sigmoid: str) -> None:
    run = write_later_spd_run(tmp_path, sigmoid_type=sigmoid, planted=False)
    d = load(tmp_path)
    assert d.sigmoid_type == sigmoid
    found = d.causal_importances(inputs(run).unsqueeze(0))
    assert found is not None
    g = found["linear1"].gate.double().numpy()
    logistic = lambda z: 1 / (1 + np.exp(-z))  # noqa: E731
    shifted = g - 0.5
    swish = lambda z: z * logistic(10 * z)  # noqa: E731
    mirrored = lambda z: z * logistic(-10 * z)  # noqa: E731
    upper = np.where(g > 1, 1 + 0.01 * (g - 1), np.clip(g, 0, 1))
    expected = {
        "normal": (logistic(g),) * 2,
        "hard": (np.clip(g, 0, 1),) * 2,
        "upper_leaky_hard": (upper,) * 2,
        "leaky_hard": (np.clip(g, 0, 1), upper),
        "swish_hard": (
            0.5 + mirrored(shifted - 0.5) - swish(shifted) + swish(shifted + 0.5) - mirrored(shifted),
        )
        * 2,
    }[sigmoid]
    np.testing.assert_allclose(found["linear1"].lower.numpy(), expected[0], atol=1e-5)
    np.testing.assert_allclose(found["linear1"].upper.numpy(), expected[1], atol=1e-5)
