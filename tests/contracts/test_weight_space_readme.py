"""What the README of the weight-space tools tells its users to type, typed.

The networks are narrow ones of the original layouts, saved as the original training scripts saved them; the
images lie in the folders that the original generator wrote.
"""

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import microtome
from microtome.cli.main import main
from microtome.compat.meta_baseline import analyze_models, probing, sparse_autoencoders, weight_analysis
from microtome.data.same_different import same_different_images
from microtome.targets.same_different_nets import SameDifferentNet

SIZE, WIDTHS, IMAGES = 32, (24, 24, 24), 60


def checkpoint(path: Path, name: str, seed: int) -> Path:
    """A checkpoint as the original training scripts wrote them."""
    torch.manual_seed(seed)
    state = SameDifferentNet(name, image_size=SIZE, widths=WIDTHS).state_dict()
    meta = {"maml_state_dict": {f"module.{k}": v for k, v in state.items()}} if "lr" in name else {}
    torch.save(
        {
            "epoch": 3,
            "model_state_dict": state,
            **meta,
            "optimizer_state_dict": {"state": {}, "param_groups": []},
            "train_loss": 0.5,
            "train_acc": 0.8,
            "val_loss": 0.6,
            "val_acc": 0.7,
        },
        path,
    )
    return path


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``meta_model.pt``, ``baseline_model.pt``, ``data/results_problem_1_50/test/*.png``."""
    folder = tmp_path_factory.mktemp("original")
    checkpoint(folder / "meta_model.pt", "conv2lr", 0)
    checkpoint(folder / "baseline_model.pt", "conv2", 1)
    images = same_different_images([1], IMAGES, size=SIZE, channels=3, split="test")
    place = folder / "data" / "results_problem_1_50" / "test"
    place.mkdir(parents=True)
    labels = images.labels["same_different"].values
    counts = [0, 0]
    for pixels, label in zip(images.pixels, labels.tolist(), strict=True):
        picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        picture.save(place / f"sample_{label}_{counts[label]:04d}.png")
        counts[label] += 1
    return folder


@pytest.fixture(autouse=True)
def here(material: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("meta_model.pt", "baseline_model.pt", "data"):
        (tmp_path / name).symlink_to(material / name)


README = """python -m meta_baseline.analyze_models \\
    --meta-model meta_model.pt \\
    --baseline-model baseline_model.pt \\
    --data-dir data \\
    --problem-number 1"""
ASKED = ["--meta-model", "meta_model.pt", "--baseline-model", "baseline_model.pt", "--data-dir", "data"]
QUICK = ["--untrained", "2", "--features.steps", "30", "--probes.permutations", "20"]
ASKED += ["--problem-number", "1", "--quiet", *QUICK]
LAYERS_OF_META = ("conv1", "conv2", "fc_layers.0", "fc_layers.1", "fc_layers.2")
LAYERS_OF_BASELINE = ("conv1", "conv2", "fc1", "fc2", "fc3")


def test_the_basic_usage_writes_every_documented_file(capsys: pytest.CaptureFixture[str]):
    words = README.replace("\\\n", " ").split()[3:]
    assert main(["analyze_models", *words, "--run-all", "--batch-size", "16", "--quiet", *QUICK]) == 0
    out = Path("model_analysis_results")
    assert {path.name for path in out.iterdir()} >= {
        "weight_analysis",
        "activation_analysis",
        "autoencoder_analysis",
        "probe_analysis",
        "results.json",
        "results.csv",
        "report.html",
    }
    weights = {path.name for path in (out / "weight_analysis").glob("*.png")}
    assert {"pca_comparison_conv_conv1.png", "pca_comparison_conv_conv2.png"} <= weights
    assert {"weight_stats_conv1_weight.png", "weight_stats_conv2_weight.png"} <= weights
    # The layers that the original left out because their names differ.
    assert any("fc" in name and name.startswith("pca_comparison_fc_") for name in weights)
    for arm, layers in (("meta", LAYERS_OF_META), ("baseline", LAYERS_OF_BASELINE)):
        files = {path.name for path in (out / "activation_analysis" / arm).iterdir()}
        for layer in (name.replace(".", "_") for name in layers):
            assert f"pca_activations_{layer}.png" in files
            assert f"act_stats_{layer}.png" in files
            text = (out / "activation_analysis" / arm / f"act_summary_{layer}.txt").read_text()
            assert re.search(r"^Sparsity \(fraction of zeros\): \d\.\d{6}$", text, re.M), text
        autoencoders = {path.name for path in (out / "autoencoder_analysis").iterdir()}
        assert any(name.startswith(f"{arm}_ae_") and name.endswith(".pt") for name in autoencoders)
        assert any(name.startswith(f"ae_feature_sparsity_{arm}_") for name in autoencoders)
        probes = {path.name for path in (out / "probe_analysis" / f"{arm}_probing").iterdir()}
        assert {"probe_accuracy_summary.png", "probe_accuracy_by_depth.png"} <= probes
    together = {path.name for path in (out / "probe_analysis").glob("*.png")}
    assert {"meta_vs_baseline_linear_probe.png", "meta_vs_baseline_nonlinear_probe.png"} <= together
    assert "meta_advantage_by_layer.png" in together
    # Both networks are untrained: nothing may be claimed, and that is said.
    told = capsys.readouterr().out
    assert "0 of" in told and "stand above noise" in told
    assert {p.name for p in Path().iterdir()} == {"meta_model.pt", "baseline_model.pt", "data", out.name}


@pytest.mark.parametrize(
    ("switch", "folder"),
    [
        ("--analyze-weights", "weight_analysis"),
        ("--analyze-activations", "activation_analysis"),
        ("--train-autoencoders", "autoencoder_analysis"),
        ("--probe-representations", "probe_analysis"),
    ],
)
def test_each_switch_makes_its_own_analysis_alone(switch: str, folder: str):
    assert main(["analyze_models", *ASKED, switch, "--output-dir", "out", "--device", "cpu"]) == 0
    made = {p.name for p in Path("out").iterdir() if p.is_dir()}
    documented = {"weight_analysis", "activation_analysis", "autoencoder_analysis", "probe_analysis"}
    assert made & documented == {folder}


def test_the_module_runs_as_it_did(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "microtome.compat.meta_baseline.analyze_models")
    monkeypatch.setattr(sys, "argv", ["analyze_models", *ASKED, "--analyze-weights", "--num-workers", "0"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("microtome.compat.meta_baseline.analyze_models", run_name="__main__")
    assert not end.value.code
    assert Path("model_analysis_results/weight_analysis").is_dir()


def test_the_snippet_of_advanced_usage():
    sys.path.insert(0, str(Path(microtome.__file__).parent / "compat"))
    try:
        snippet = """
from meta_baseline.weight_analysis import load_models, compare_weight_spaces
from meta_baseline.sparse_autoencoders import collect_activations, train_sparse_autoencoder
from meta_baseline.probing import probe_layer_representations

# Load models
meta_model, baseline_model = load_models('meta_model.pt', 'baseline_model.pt')
"""
        names: dict = {}
        exec(snippet, names)
    finally:
        sys.path.pop(0)
    meta, baseline = names["meta_model"], names["baseline_model"]
    found = names["compare_weight_spaces"](meta, baseline, "weights")
    assert set(found) == {"meta_conv_pca", "baseline_conv_pca", "meta_fc_pca", "baseline_fc_pca"}
    assert set(found["meta_conv_pca"]["conv1"]) == {"transformed", "explained_variance_ratio", "components"}
    assert (Path("weights") / "pca_comparison_fc_fc_layers_0.png").is_file()
    loader = analyze_models.load_data("data", 1, batch_size=16)
    assert next(iter(loader))["image"].shape[1:] == (3, 128, 128)


def batches(n: int = 48) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(n, 3, SIZE, SIZE, generator=generator)
    labels = (images.mean((1, 2, 3)) > 0).long()
    return [{"image": images[i : i + 16], "label": labels[i : i + 16]} for i in range(0, n, 16)]


def test_activations_autoencoders_and_probes_by_the_old_functions(capsys: pytest.CaptureFixture[str]):
    meta, baseline = weight_analysis.load_models("meta_model.pt", "baseline_model.pt")
    rows = sparse_autoencoders.collect_activations(meta, batches(), ["conv1", "fc_layers.0"])
    assert rows["fc_layers.0"].shape == (48, 24) and rows["conv1"].shape == (48, 6 * 33 * 33)
    autoencoder, losses = sparse_autoencoders.train_sparse_autoencoder(rows["fc_layers.0"], 12, epochs=30)
    assert set(losses) == {"reconstruction", "l1", "total"} and len(losses["total"]) == 30
    assert losses["total"][-1] < losses["total"][0]
    np.testing.assert_allclose(losses["total"][-1], losses["reconstruction"][-1] + losses["l1"][-1])
    decoded, features = autoencoder(rows["fc_layers.0"])
    assert decoded.shape == rows["fc_layers.0"].shape and features.shape == (48, 12)
    assert torch.isclose(autoencoder.get_l1_loss(features), 1e-4 * features.abs().mean())
    sparse_autoencoders.analyze_activations(rows, "acts")
    assert "Layer: conv1" in Path("acts/act_summary_conv1.txt").read_text()
    labels = torch.cat([batch["label"] for batch in batches()])
    results = probing.compare_meta_and_baseline_representations(
        meta, baseline, batches(), {"bright": labels + 7}, "probes", epochs=3
    )
    assert set(results["meta"]) == set(LAYERS_OF_META) and set(results["baseline"]) == set(LAYERS_OF_BASELINE)
    found = results["meta"]["conv1"]["bright"]["linear"]
    assert set(found) >= {"probe", "history", "final_val_acc"}
    assert set(found["history"]) == {"train_loss", "train_acc", "val_loss", "val_acc"}
    assert (Path("probes") / "meta_probing" / "probe_conv1_bright.png").is_file()
    assert (Path("probes") / "meta_advantage_by_layer.png").is_file()
    compared = sparse_autoencoders.compare_models_with_autoencoders(
        meta, baseline, batches(), output_dir="ae", epochs=2
    )
    assert set(compared) == {"meta_autoencoders", "baseline_autoencoders"}
    assert set(compared["meta_autoencoders"]["conv1"]) == {"autoencoder", "losses", "feature_weights"}
    assert Path("ae/baseline_ae_losses_fc1.png").is_file() and Path("ae/meta_ae_conv2.pt").is_file()
    assert "dead" in capsys.readouterr().err  # two epochs teach it nothing, and that is said


def test_correlations_of_weights_see_through_the_order_of_filters():
    meta, _ = weight_analysis.load_models("meta_model.pt", "baseline_model.pt")
    turned, _ = weight_analysis.load_models("meta_model.pt", "baseline_model.pt")
    order = torch.tensor([3, 1, 4, 0, 5, 2])
    turned.get_submodule("conv1").weight.data = meta.get_submodule("conv1").weight.data[order]
    found = weight_analysis.compute_weight_correlations(meta, turned)
    assert found["conv1"]["matched_correlation"] == pytest.approx(1, abs=1e-6)
    assert found["conv1"]["correlation"] < 0.9
    np.testing.assert_array_equal(order[found["conv1"]["assignment"]], np.arange(6))
    assert found["conv2"]["correlation"] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--baseline-model", "baseline_model.pt", "--data-dir", "data", "--problem-number", "1"], "model_a"),
        ([*ASKED, "--problem-number", "77"], "77"),
        ([*ASKED, "--data-dir", "nowhere"], "nowhere"),
        ([*ASKED, "--meta-model", "missing.pt"], "missing.pt"),
    ],
)
def test_wrong_words_get_one_line(words: list[str], told: str, capsys: pytest.CaptureFixture[str]):
    assert main(["analyze_models", *words]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert told in line and line.startswith("microtome: ")
    assert not Path("model_analysis_results").exists()
