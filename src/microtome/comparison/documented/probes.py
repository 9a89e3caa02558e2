"""Probes by the original functions: a linear and an MLP classifier on every layer, by gradient descent."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from microtome.comparison.documented import plots
from microtome.comparison.documented.autoencoders import analysed_layers, collect_with_labels
from microtome.core.device import resolve_device
from microtome.core.errors import MicrotomeError
from microtome.core.seeds import generator

SPLIT_SEED = 42
MLP_WIDTH = 128
History = dict[str, list[float]]
Results = dict[str, dict[str, dict[str, dict[str, Any]]]]


class LinearProbe(nn.Module):
    """A linear classifier, or one with a hidden ReLU layer when ``hidden_dim`` is given."""

    def __init__(self, input_dim: int, output_dim: int, hidden_dim: int | None = None) -> None:
        super().__init__()
        if hidden_dim is None:
            self.model: nn.Module = nn.Linear(input_dim, output_dim)
        else:
            self.model = nn.Sequential(
                nn.Linear(input_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, output_dim)
            )

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n classes"]:
        """Logits."""
        return self.model(x)


def collect_activations_with_labels(
    model: nn.Module,
    data_loader: Iterable[Any],
    layer_names: Sequence[str],
    device: str | torch.device = "cpu",
) -> tuple[dict[str, Float[Tensor, "n d"]], Tensor]:
    """What the named modules give out, flattened, and the labels of the same images."""
    return collect_with_labels(model, data_loader, layer_names, device)


def train_probe(
    X_train: Float[Tensor, "n d"],
    y_train: Int[Tensor, " n"],
    X_val: Float[Tensor, "m d"],
    y_val: Int[Tensor, " m"],
    output_dim: int,
    hidden_dim: int | None = None,
    epochs: int = 30,
    batch_size: int = 128,
    lr: float = 0.001,
    device: str | torch.device = "cpu",
    seed: int = 0,
) -> tuple[LinearProbe, History]:
    """Train one probe by Adam on the cross entropy.

    Returns it with ``train_loss``, ``train_acc``, ``val_loss``, ``val_acc`` an epoch.
    """
    place = resolve_device(str(device))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        probe = LinearProbe(X_train.shape[1], output_dim, hidden_dim).to(place)
    optimiser = torch.optim.Adam(probe.parameters(), lr=lr, fused=True)
    x, y, x_val, y_val = (t.to(place) for t in (X_train.float(), y_train, X_val.float(), y_val))
    draws = generator(seed, place, "probe")
    measured: list[Tensor] = []
    for _ in range(epochs):
        sums = torch.zeros(2, device=place)
        for part in torch.randperm(len(x), generator=draws, device=place).split(batch_size):
            logits = probe(x[part])
            loss = nn.functional.cross_entropy(logits, y[part])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            right = (logits.argmax(1) == y[part]).sum()
            sums += torch.stack([loss.detach() * len(part), right])
        with torch.no_grad():
            logits = probe(x_val)
            val = torch.stack(
                [nn.functional.cross_entropy(logits, y_val), (logits.argmax(1) == y_val).float().mean()]
            )
        measured.append(torch.cat([sums / len(x), val]))
    table = torch.stack(measured).T.tolist() if measured else [[], [], [], []]
    return probe, dict(zip(("train_loss", "train_acc", "val_loss", "val_acc"), table, strict=True))


def probe_layer_representations(
    model: nn.Module,
    data_loader: Iterable[Any],
    layer_names: Sequence[str],
    labels: Mapping[str, Tensor],
    output_dir: str | Path,
    device: str | torch.device = "cpu",
    epochs: int = 30,
) -> Results:
    """A linear and an MLP probe for every layer and task, on one split: 80 % training, seed 42.

    ``labels``: task -> the label of every image, whatever numbers they are. Returns layer -> task ->
    ``linear`` and ``nonlinear``, each with ``probe``, ``history`` and ``final_val_acc``, and draws
    ``probe_{layer}_{task}.png``. `microtome compare --probe-representations` measures the same with
    cross-validation, intervals and controls.
    """
    activations, _ = collect_with_labels(model, data_loader, layer_names, device)
    results: Results = {}
    for layer, x in activations.items():
        results[layer] = {}
        for task, label in labels.items():
            if len(label) != len(x):
                raise MicrotomeError(
                    f"labels[{task}]: {len(label)} labels for {len(x)} images; give one each"
                )
            y = torch.as_tensor(np.unique(np.asarray(label), return_inverse=True)[1]).reshape(-1)
            results[layer][task] = _both_probes(x, y, device, epochs)
            histories = {kind: found["history"] for kind, found in results[layer][task].items()}
            figure = plots.probe_history(histories, f"{layer}: {task}")
            plots.save(figure, Path(output_dir) / f"probe_{plots.file_word(layer)}_{task}.png")
    return results


def _both_probes(x: Tensor, y: Tensor, device: str | torch.device, epochs: int) -> dict[str, dict[str, Any]]:
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(SPLIT_SEED))
    train, val = order[: int(0.8 * len(x))], order[int(0.8 * len(x)) :]
    classes = int(y.max()) + 1
    found = {}
    for kind, hidden in (("linear", None), ("nonlinear", min(x.shape[1], MLP_WIDTH))):
        probe, history = train_probe(
            x[train], y[train], x[val], y[val], classes, hidden, epochs=epochs, device=device
        )
        found[kind] = {
            "probe": probe,
            "history": history,
            "final_val_acc": history["val_acc"][-1],
            "n_val": len(val),
        }
    return found


def summarize_probe_results(results: Results, output_dir: str | Path) -> None:
    """Draw ``probe_accuracy_summary.png`` and ``probe_accuracy_by_depth.png``."""
    layers, tasks = list(results), list(next(iter(results.values())))
    tables = {
        kind: np.array([[results[layer][task][kind]["final_val_acc"] for task in tasks] for layer in layers])
        for kind in ("linear", "nonlinear")
    }
    plots.save(plots.accuracy_tables(tables, layers, tasks), Path(output_dir) / "probe_accuracy_summary.png")
    curves = {
        f"{task}, {kind}": tables[kind][:, column] for column, task in enumerate(tasks) for kind in tables
    }
    figure = plots.by_depth(curves, layers, "Probe accuracy by depth")
    plots.save(figure, Path(output_dir) / "probe_accuracy_by_depth.png")


def compare_meta_and_baseline_representations(
    meta_model: nn.Module,
    baseline_model: nn.Module,
    data_loader: Iterable[Any],
    probe_tasks: Mapping[str, Tensor],
    output_dir: str | Path,
    device: str | torch.device = "cpu",
    epochs: int = 30,
) -> dict[str, Results]:
    """Probe both networks: ``meta`` and ``baseline``, pictures in ``{arm}_probing/`` and side by side."""
    folder = Path(output_dir)
    found = {}
    layers = {}
    for arm, model in (("meta", meta_model), ("baseline", baseline_model)):
        layers[arm] = analysed_layers(model)
        place = folder / f"{arm}_probing"
        found[arm] = probe_layer_representations(
            model, data_loader, layers[arm], probe_tasks, place, device, epochs
        )
        summarize_probe_results(found[arm], place)
    compare_probing_results(found["meta"], found["baseline"], layers["meta"], layers["baseline"], folder)
    return found


def compare_probing_results(
    meta_results: Results,
    baseline_results: Results,
    meta_layers: Sequence[str],
    baseline_layers: Sequence[str],
    output_dir: str | Path,
) -> None:
    """Draw both networks by depth, and meta minus baseline with what one split of the images can tell.

    ``meta_vs_baseline_linear_probe.png``, ``meta_vs_baseline_nonlinear_probe.png``,
    ``meta_advantage_by_layer.png``. Layers are paired by order; the deeper network's last ones are left out.
    """
    count, folder = min(len(meta_layers), len(baseline_layers)), Path(output_dir)
    names = [a if a == b else f"{a} / {b}" for a, b in zip(meta_layers, baseline_layers, strict=False)]
    tasks = [task for task in meta_results[meta_layers[0]] if task in baseline_results[baseline_layers[0]]]
    if not tasks:
        raise MicrotomeError(
            "the two results have no task in common; probe both networks for the same labels"
        )
    for kind in ("linear", "nonlinear"):
        curves = {
            f"{arm}, {task}": _accuracies(results, layers[:count], task, kind)
            for task in tasks
            for arm, results, layers in (
                ("meta", meta_results, meta_layers),
                ("baseline", baseline_results, baseline_layers),
            )
        }
        figure = plots.by_depth(curves, names, f"{kind} probes".capitalize())
        plots.save(figure, folder / f"meta_vs_baseline_{kind}_probe.png")
    a, b = (
        np.mean([_accuracies(results, layers[:count], task, "linear") for task in tasks], axis=0)
        for results, layers in ((meta_results, meta_layers), (baseline_results, baseline_layers))
    )
    n = meta_results[meta_layers[0]][tasks[0]]["linear"].get("n_val", 1)
    spread = 1.96 * np.sqrt((a * (1 - a) + b * (1 - b)) / n)
    plots.save(plots.advantage(a - b, names, spread), folder / "meta_advantage_by_layer.png")


def _accuracies(results: Results, layers: Sequence[str], task: str, kind: str) -> np.ndarray:
    return np.array([results[layer][task][kind]["final_val_acc"] for layer in layers])
