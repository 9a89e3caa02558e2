"""The switch that reproduces the old numbers, against the original scripts' procedure written out literally.

Their order of samples was shuffled without a seed; here both sides keep the order of the texts.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import N_FEATURES, N_LAYERS, random_dictionary
from tiny import TEXTS as LONG
from torch import Tensor, nn

from microtome.dictionaries.formats import save_dictionary_learning
from microtome.gradients.config import FeaturesConfig, LayersConfig
from microtome.gradients.loading import load_results
from microtome.gradients.run import run

N, BATCH, LENGTH = 10, 4, 48
TEXTS = [text[: 20 + 25 * (place % 5)] for place, text in enumerate(LONG)]
OLD = {"loss_scale": "batch_mean", "num_samples": N, "batch_size": BATCH, "max_length": LENGTH}


@pytest.fixture(scope="module")
def batch_topk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dictionaries as the original's were: dictionary_learning's BatchTopK, one folder a layer."""
    torch.manual_seed(5)
    folder = tmp_path_factory.mktemp("batch_topk")
    for layer in range(N_LAYERS):
        dictionary = random_dictionary(layer, architecture="batch_topk")
        dictionary.get_parameter("threshold").fill_(0.05)
        save_dictionary_learning(dictionary, folder / f"mlp_out_layer_{layer}" / "trainer_0")
    return folder


class BatchTopKSAE(nn.Module):
    """dictionary_learning's inference, from the file alone."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.state = torch.load(file, weights_only=True)

    def encode(self, x: Tensor) -> Tensor:
        s = self.state
        post_relu = torch.relu((x - s["b_dec"]) @ s["encoder.weight"].T + s["encoder.bias"])
        return post_relu * (post_relu > s["threshold"])

    def decode(self, f: Tensor) -> Tensor:
        return f @ self.state["decoder.weight"].T + self.state["b_dec"]


def tokenised(folder: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    encoded = tokenizer(
        TEXTS[:N], padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
    )
    ids, mask = encoded["input_ids"], encoded["attention_mask"]
    assert 0.1 < (mask == 0).float().mean() < 0.9, "padding is part of what is reproduced"
    return model.eval(), [(ids[i : i + BATCH], mask[i : i + BATCH]) for i in range(0, N, BATCH)]


def original_layers(folder: Path, layer: int, mode: str) -> np.ndarray:
    model, batches = tokenised(folder)
    per_batch = []
    for ids, mask in batches:
        held = {}

        def hook(module, args, output, held=held):
            held["activation"] = output.detach().clone().requires_grad_(True)
            return held["activation"]

        handle = model.model.layers[layer].mlp.register_forward_hook(hook)
        loss = model(input_ids=ids, attention_mask=mask, labels=ids).loss
        (g,) = torch.autograd.grad(loss, held["activation"])
        handle.remove()
        g = g * mask[..., None]
        g = g.abs() if mode == "mean_abs" else g
        per_batch.append(g.sum((0, 1)) / mask.sum())
    return torch.stack(per_batch).mean(0).numpy()


def original_features(folder: Path, saes: Path, layer: int, mode: str) -> np.ndarray:
    model, batches = tokenised(folder)
    sae = BatchTopKSAE(saes / f"mlp_out_layer_{layer}" / "trainer_0" / "ae.pt")
    mlp = model.model.layers[layer].mlp
    per_batch = []
    for ids, mask in batches:
        held = {}
        handle = mlp.register_forward_hook(lambda m, a, output, held=held: held.update(x=output))
        with torch.no_grad():
            model(input_ids=ids, attention_mask=mask)
        handle.remove()
        flat = held["x"].reshape(-1, held["x"].shape[-1])
        places = mask.reshape(-1).nonzero()[:, 0][::4]
        f = sae.encode(flat[places]).detach().requires_grad_(True)
        x_hat = sae.decode(f)

        def splice(module, args, output, places=places, x_hat=x_hat):
            new = output.reshape(-1, output.shape[-1]).clone()
            new[places] = x_hat
            return new.view_as(output)

        handle = mlp.register_forward_hook(splice)
        loss = model(input_ids=ids, attention_mask=mask, labels=ids).loss
        (g,) = torch.autograd.grad(loss, f)
        handle.remove()
        g = g.abs() if mode == "mean_abs" else g
        per_batch.append(g.mean(0))
    return torch.stack(per_batch).mean(0).numpy()


def consolidated(config, tmp_path: Path) -> dict[str, np.ndarray]:
    path = tmp_path / "all.npz"
    run(
        config.model_copy(update={"save_consolidated": path}),
        texts=TEXTS[:N],
        show_progress=False,
        note=lambda _: None,
    )
    return load_results(path)["data"]


def test_layers_reproduce_the_original_script(model_folder: Path, tmp_path: Path) -> None:
    config = LayersConfig.from_mapping(
        {**OLD, "model_name": str(model_folder), "aggregation_mode": "both", "device": "cpu"}
    )
    data = consolidated(config, tmp_path)
    for layer in range(N_LAYERS):
        for mode in ("mean", "mean_abs"):
            expected = original_layers(model_folder, layer, mode)
            assert np.abs(expected).max() > 1e-5
            np.testing.assert_allclose(
                data[f"layer_{layer}_{mode}"], expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max()
            )


@pytest.mark.parametrize("max_tokens", [4096, 1])
def test_features_reproduce_the_original_script(
    model_folder: Path, batch_topk: Path, tmp_path: Path, max_tokens: int
) -> None:
    config = FeaturesConfig.from_mapping(
        {
            **OLD,
            "position_stride": 4,
            "sae_mode": "reconstruction",
            "model_name": str(model_folder),
            "sae_path": str(batch_topk / "mlp_out_layer_{layer}" / "trainer_0"),
            "aggregation_mode": "both",
            "device": "cpu",
            "check_dictionary": False,
            "max_tokens_in_memory": max_tokens,
        }
    )
    data = consolidated(config, tmp_path)
    for layer in range(N_LAYERS):
        for mode in ("mean", "mean_abs"):
            expected = original_features(model_folder, batch_topk, layer, mode)
            assert expected.shape == (N_FEATURES,) and np.abs(expected).max() > 1e-5
            np.testing.assert_allclose(
                data[f"layer_{layer}_{mode}"], expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max()
            )


def test_the_default_is_another_quantity(model_folder: Path, batch_topk: Path, tmp_path: Path) -> None:
    """Otherwise the tests above would prove nothing about the switch."""
    config = FeaturesConfig.from_mapping(
        {
            "num_samples": N,
            "batch_size": BATCH,
            "max_length": LENGTH,
            "model_name": str(model_folder),
            "sae_path": str(batch_topk / "mlp_out_layer_{layer}" / "trainer_0"),
            "device": "cpu",
            "check_dictionary": False,
        }
    )
    data = consolidated(config, tmp_path)
    expected = original_features(model_folder, batch_topk, 1, "mean_abs")
    ours = data["layer_1_mean_abs"]
    assert not np.allclose(ours / ours.sum(), expected / expected.sum(), rtol=0.01)
