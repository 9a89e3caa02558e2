"""Activations and autoencoders by the original functions, with a dead autoencoder said aloud."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from microtome.comparison.documented import plots
from microtome.core.atomic import write_text
from microtome.core.device import resolve_device, say
from microtome.core.errors import Diverged, MicrotomeError
from microtome.core.seeds import generator
from microtome.core.tensor_files import write_torch
from microtome.hooks import record

PCA_ROWS = 10_000
NEAR_ZERO = 1e-3
DEAD_BELOW = 0.05  # explained variance of an autoencoder that learned nothing


class SparseAutoEncoder(nn.Module):
    """ReLU autoencoder with an L1 penalty on its activations; encoder and decoder are not tied."""

    def __init__(self, input_dim: int, hidden_dim: int, l1_coef: float = 1e-4) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(input_dim, hidden_dim), nn.Linear(hidden_dim, input_dim)
        self.l1_coef = l1_coef
        for layer in (self.encoder, self.decoder):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n F"]]:
        """The reconstruction, and the features' activations."""
        activations = torch.relu(self.encoder(x))
        return self.decoder(activations), activations

    def get_l1_loss(self, activations: Float[Tensor, "n F"]) -> Float[Tensor, ""]:
        """``l1_coef`` times the mean absolute activation."""
        return self.l1_coef * activations.abs().mean()


@torch.no_grad()
def collect_activations(
    model: nn.Module,
    data_loader: Iterable[Any],
    layer_names: Sequence[str],
    device: str | torch.device = "cpu",
) -> dict[str, Float[Tensor, "n d"]]:
    """What the named modules give out for every image, flattened: name -> ``[n, C * H * W]``.

    Batches are ``{"image": ..., "label": ...}``, pairs ``(image, label)``, or images alone. The model is put
    into evaluation mode meanwhile. Raises ``MicrotomeError`` for an unknown layer.
    """
    return collect_with_labels(model, data_loader, layer_names, device)[0]


@torch.no_grad()
def collect_with_labels(
    model: nn.Module,
    data_loader: Iterable[Any],
    layer_names: Sequence[str],
    device: str | torch.device = "cpu",
) -> tuple[dict[str, Tensor], Tensor]:
    """The activations, and the labels of the same images (empty when the batches have none)."""
    place = resolve_device(str(device))
    found: dict[str, list[Tensor]] = {name: [] for name in layer_names}
    labels: list[Tensor] = []
    was_training = model.training
    model.to(place).eval()
    try:
        with record(model, layer_names) as seen:
            for batch in data_loader:
                images, label = _parts(batch)
                model(images.to(place))
                for name in layer_names:
                    found[name].append(seen[name].flatten(1).cpu().clone())
                if label is not None:
                    labels.append(torch.as_tensor(label))
    finally:
        model.train(was_training)
    if not any(found.values()):
        raise MicrotomeError("data_loader: gave no batch; check the data folder")
    return {k: torch.cat(v) for k, v in found.items()}, torch.cat(labels) if labels else torch.empty(0)


def _parts(batch: Any) -> tuple[Tensor, Any]:
    if isinstance(batch, Mapping):
        return batch["image"], batch.get("label")
    if isinstance(batch, (tuple, list)):
        return batch[0], batch[1] if len(batch) > 1 else None
    return batch, None


def train_sparse_autoencoder(
    activations: Float[Tensor, "n d"],
    hidden_dim: int,
    l1_coef: float = 1e-4,
    epochs: int = 100,
    batch_size: int = 256,
    lr: float = 1e-3,
    device: str | torch.device = "cpu",
    seed: int = 0,
) -> tuple[SparseAutoEncoder, dict[str, list[float]]]:
    """Train the original autoencoder: mean squared error plus ``l1_coef`` times the mean activation, by Adam.

    Returns it with its losses an epoch: ``reconstruction``, ``l1``, ``total``. One that explains less than
    5 % of the variance is said to be dead. `microtome compare --train-autoencoders` trains TopK dictionaries
    instead, which do not die this way. Raises ``Diverged``.
    """
    place = resolve_device(str(device))
    rows = activations.float().to(place)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SparseAutoEncoder(rows.shape[1], hidden_dim, l1_coef).to(place)
    optimiser = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    draws = generator(seed, place, "autoencoder")
    history: dict[str, list[float]] = {"reconstruction": [], "l1": [], "total": []}
    for _ in range(epochs):
        sums = torch.zeros(2, device=place)
        for part in torch.randperm(len(rows), generator=draws, device=place).split(batch_size):
            x = rows[part]
            decoded, features = model(x)
            reconstruction, l1 = nn.functional.mse_loss(decoded, x), model.get_l1_loss(features)
            optimiser.zero_grad()
            (reconstruction + l1).backward()
            optimiser.step()
            sums += torch.stack([reconstruction.detach(), l1.detach()]) * len(part)
        mean = (sums / len(rows)).tolist()
        history["reconstruction"].append(mean[0])
        history["l1"].append(mean[1])
        history["total"].append(sum(mean))
    if epochs and not np.isfinite(history["total"][-1]):
        raise Diverged(f"autoencoder: loss {history['total'][-1]}; lower lr={lr}")
    with torch.no_grad():
        error = nn.functional.mse_loss(model(rows)[0], rows)
        explained = 1 - float(error / rows.var(0, unbiased=False).mean().clamp(min=1e-30))
    if epochs and explained < DEAD_BELOW:
        say(f"autoencoder: dead, it explains {explained:.1%} of the variance; do not read its features")
    return model, history


def analyze_activations(
    activation_dict: Mapping[str, Float[Tensor, "n d"]], output_dir: str | Path = "activation_analysis"
) -> None:
    """Write ``pca_activations_*.png``, ``act_stats_*.png`` and ``act_summary_*.txt`` for every layer.

    More than 10,000 rows are thinned to 10,000 evenly for the PCA.
    """
    from sklearn.decomposition import PCA

    folder = Path(output_dir)
    for layer, values in activation_dict.items():
        x = values.float().flatten(1).cpu()
        thinned = x[:: max(1, -(-len(x) // PCA_ROWS))].numpy()
        pca = PCA(n_components=min(2, *thinned.shape), random_state=0).fit(thinned)
        figure = plots.activation_pca(pca.transform(thinned), pca.explained_variance_ratio_, layer)
        plots.save(figure, folder / f"pca_activations_{plots.file_word(layer)}.png")
        std = x.std(0) if len(x) > 1 else torch.zeros(x.shape[1])
        plots.save(
            plots.unit_statistics(x.mean(0).numpy(), std.numpy(), layer),
            folder / f"act_stats_{plots.file_word(layer)}.png",
        )
        lines = [f"Layer: {layer}"] + [
            f"{words}: {float(number):.6f}"
            for words, number in (
                ("Mean activation", x.mean()),
                ("StdDev of activation", x.std()),
                ("Sparsity (fraction of zeros)", (x == 0).float().mean()),
                ("Min activation", x.min()),
                ("Max activation", x.max()),
            )
        ]
        write_text(folder / f"act_summary_{plots.file_word(layer)}.txt", "\n".join(lines) + "\n")


def visualize_autoencoder_features(
    autoencoder: SparseAutoEncoder, layer_name: str, output_dir: str | Path
) -> Float[np.ndarray, "F d"]:
    """Draw ``ae_weight_dist_*`` and ``ae_feature_sparsity_*``; returns the encoder's weights, 0..1."""
    weights = autoencoder.encoder.weight.detach().float().cpu().numpy()
    folder, word = Path(output_dir), plots.file_word(layer_name)
    plots.save(plots.encoder_weights(weights, layer_name), folder / f"ae_weight_dist_{word}.png")
    share = (np.abs(weights) < NEAR_ZERO).mean(1)
    plots.save(plots.feature_sparsity(share, layer_name), folder / f"ae_feature_sparsity_{word}.png")
    low = weights.min(1, keepdims=True)
    return (weights - low) / np.maximum(weights.max(1, keepdims=True) - low, 1e-12)


def compare_models_with_autoencoders(
    meta_model: nn.Module,
    baseline_model: nn.Module,
    dataloader: Iterable[Any],
    device: str | torch.device = "cpu",
    output_dir: str | Path = "autoencoder_analysis",
    epochs: int = 100,
) -> dict[str, dict[str, dict[str, Any]]]:
    """An autoencoder of ``min(d // 2, 256)`` features on every convolution and linear layer of both networks.

    Returns ``meta_autoencoders`` and ``baseline_autoencoders``: layer -> ``autoencoder``, ``losses``,
    ``feature_weights``. Writes ``{arm}_ae_{layer}.pt``, ``{arm}_ae_losses_{layer}.png`` and the pictures of
    ``visualize_autoencoder_features`` into ``output_dir``.
    """
    folder = Path(output_dir)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for arm, model in (("meta", meta_model), ("baseline", baseline_model)):
        activations = collect_activations(model, dataloader, analysed_layers(model), device)
        found[f"{arm}_autoencoders"] = {}
        for layer, rows in activations.items():
            hidden = max(1, min(rows.shape[1] // 2, 256))
            autoencoder, history = train_sparse_autoencoder(rows, hidden, epochs=epochs, device=device)
            word = plots.file_word(layer)
            write_torch(folder / f"{arm}_ae_{word}.pt", autoencoder.state_dict())
            figure = plots.losses(history, f"Autoencoder of {arm} {layer}")
            plots.save(figure, folder / f"{arm}_ae_losses_{word}.png")
            found[f"{arm}_autoencoders"][layer] = {
                "autoencoder": autoencoder,
                "losses": history,
                "feature_weights": visualize_autoencoder_features(autoencoder, f"{arm}_{layer}", folder),
            }
    return found


def analysed_layers(model: nn.Module) -> list[str]:
    """The layers that the original looked at: convolutions and linear layers but the last, the classifier."""
    names = [n for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    return names[:-1] or names
