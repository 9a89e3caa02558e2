"""Weights of two networks by the original functions: PCA of filters, statistics, correlations."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import nn

from microtome.comparison.documented.plots import file_word, pca_panels, save, weight_panels
from microtome.core.atomic import write_text
from microtome.core.device import resolve_device
from microtome.core.errors import MicrotomeError
from microtome.targets.image_network import open_network

WeightPCA = dict[str, dict[str, np.ndarray]]


def load_models(
    meta_model_path: str | Path, baseline_model_path: str | Path, device: str | torch.device = "cpu"
) -> tuple[nn.Module, nn.Module]:
    """The two networks of two checkpoints, in evaluation mode; their classes are told from names and shapes.

    Raises ``MicrotomeError`` in one line for a file that is missing, unsafe, or of no known network.
    """
    place = resolve_device(str(device))
    meta, baseline = (open_network(str(path)).module for path in (meta_model_path, baseline_model_path))
    return meta.to(place), baseline.to(place)


def extract_weights(model: nn.Module, layer_type: type[nn.Module] = nn.Conv2d) -> dict[str, np.ndarray]:
    """Weights of every layer of a type, one row an output: module name -> ``[out, in * k * k]``."""
    return {
        name: module.get_parameter("weight").detach().float().flatten(1).cpu().numpy()
        for name, module in model.named_modules()
        if isinstance(module, layer_type) and "weight" in dict(module.named_parameters(recurse=False))
    }


def run_pca_on_weights(
    weights_dict: Mapping[str, Float[np.ndarray, "out d"]], n_components: int = 2
) -> WeightPCA:
    """PCA of each layer's rows, centred: ``transformed``, ``explained_variance_ratio``, ``components``.

    A layer with fewer rows or columns than ``n_components`` gets as many components as it has.
    """
    from sklearn.decomposition import PCA

    found = {}
    for name, weights in weights_dict.items():
        kept = min(n_components, *weights.shape)
        if len(weights) < 2:  # one row has no variance to explain
            found[name] = {
                "transformed": np.zeros((len(weights), kept)),
                "explained_variance_ratio": np.zeros(kept),
                "components": np.zeros((kept, weights.shape[1])),
            }
            continue
        pca = PCA(n_components=kept, random_state=0).fit(weights)
        found[name] = {
            "transformed": pca.transform(weights),
            "explained_variance_ratio": pca.explained_variance_ratio_,
            "components": pca.components_,
        }
    return found


def compare_weight_spaces(
    meta_model: nn.Module, baseline_model: nn.Module, output_dir: str | Path = "weight_analysis_results"
) -> dict[str, WeightPCA]:
    """PCA of the convolutions and of the fully connected layers of both networks, with all pictures.

    Returns ``meta_conv_pca``, ``baseline_conv_pca``, ``meta_fc_pca``, ``baseline_fc_pca``.
    """
    found = {}
    for kind, layer_type in (("conv", nn.Conv2d), ("fc", nn.Linear)):
        meta, baseline = (
            run_pca_on_weights(extract_weights(m, layer_type)) for m in (meta_model, baseline_model)
        )
        found[f"meta_{kind}_pca"], found[f"baseline_{kind}_pca"] = meta, baseline
        plot_pca_comparisons(meta, baseline, kind, output_dir)
    plot_weight_statistics(meta_model, baseline_model, output_dir)
    return found


def plot_pca_comparisons(
    meta_pca: WeightPCA, baseline_pca: WeightPCA, layer_type: str, output_dir: str | Path
) -> list[Path]:
    """Draw ``pca_comparison_{layer_type}_{layer}.png`` for every pair of layers.

    Layers of different names (``fc_layers.0`` and ``fc1``) are paired by order and shape.
    """
    return [
        save(
            pca_panels(meta_pca[a], baseline_pca[b], a, b),
            Path(output_dir) / f"pca_comparison_{layer_type}_{file_word(a)}.png",
        )
        for a, b in paired(meta_pca, baseline_pca)
    ]


def paired(meta: WeightPCA, baseline: WeightPCA) -> list[tuple[str, str]]:
    """Layers that belong together: equal names first, then the others by order and number of inputs."""
    pairs = [(name, name) for name in meta if name in baseline]
    rest_a, rest_b = (
        [n for n in names if n not in other] for names, other in ((meta, baseline), (baseline, meta))
    )
    for a in rest_a:
        shape = meta[a]["components"].shape[1], len(meta[a]["transformed"])
        for b in rest_b:
            if shape == (baseline[b]["components"].shape[1], len(baseline[b]["transformed"])):
                pairs.append((a, b))
                rest_b.remove(b)
                break
    return pairs


def plot_weight_statistics(
    meta_model: nn.Module, baseline_model: nn.Module, output_dir: str | Path
) -> list[Path]:
    """Draw ``weight_stats_{parameter}.png``: how values and magnitudes of each weight are spread."""
    baseline = dict(baseline_model.named_parameters())
    paths = []
    for name, parameter in meta_model.named_parameters():
        other = baseline.get(name)
        if "weight" not in name or other is None:
            continue
        ours, theirs = (p.detach().float().flatten().cpu().numpy() for p in (parameter, other))
        paths.append(
            save(weight_panels(ours, theirs, name), Path(output_dir) / f"weight_stats_{file_word(name)}.png")
        )
    return paths


def compute_weight_correlations(
    meta_model: nn.Module, baseline_model: nn.Module, output_dir: str | Path | None = None
) -> dict[str, dict[str, Any]]:
    """Pearson correlation of the weights of layers that both networks have in one shape.

    ``correlation`` takes rows as they stand, ``matched_correlation`` after pairing the rows (filters) of the
    two layers one to one so that the sum of correlations is largest; ``assignment`` is that pairing. Networks
    may differ by the order of their filters alone: only the second says so. With ``output_dir`` the table is
    written to ``weight_correlations.csv`` there. Raises ``MicrotomeError`` when no
    layer can be compared.
    """
    found: dict[str, dict[str, Any]] = {}
    for layer_type in (nn.Conv2d, nn.Linear):
        ours, theirs = (extract_weights(m, layer_type) for m in (meta_model, baseline_model))
        left = list(theirs)
        for name, weights in ours.items():
            same = [n for n in left if theirs[n].shape == weights.shape]
            if not same:
                continue
            other = name if name in same else same[0]
            left.remove(other)
            correlations = _row_correlations(weights, theirs[other])
            rows, columns = linear_sum_assignment(correlations, maximize=True)
            found[name] = {
                "layer": other,
                "correlation": float(np.corrcoef(weights.ravel(), theirs[other].ravel())[0, 1]),
                "matched_correlation": float(correlations[rows, columns].mean()),
                "assignment": columns,
            }
    if not found:
        raise MicrotomeError("the two networks have no layer of one shape; compare their activations instead")
    if output_dir is not None:
        rows = [
            f"{a},{f['layer']},{f['correlation']:.6f},{f['matched_correlation']:.6f}"
            for a, f in found.items()
        ]
        table = ["meta_layer,baseline_layer,correlation,matched_correlation", *rows]
        write_text(Path(output_dir) / "weight_correlations.csv", "\n".join(table) + "\n")
    return found


def _row_correlations(a: np.ndarray, b: np.ndarray) -> Float[np.ndarray, "out out"]:
    centred = [w - w.mean(1, keepdims=True) for w in (a.astype(np.float64), b.astype(np.float64))]
    unit = [w / np.maximum(np.linalg.norm(w, axis=1, keepdims=True), 1e-300) for w in centred]
    return unit[0] @ unit[1].T
