"""Ablations against rerunning the model by hand, correlations, comparisons, the page."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from tiny import D_MODEL, N_LAYERS, TEXTS, random_batch, random_dictionary, random_model

from microtome.cli.main import main
from microtome.core.errors import CannotLoad, MicrotomeError
from microtome.dictionaries.formats import open_dictionary, save_sparsify
from microtome.gradients import compare, feature_importance, layer_importance
from microtome.gradients.ablation import Identity, LayerIntervention, sample_losses
from microtome.gradients.result import GradientResult
from microtome.gradients.validation import rank_correlation
from microtome.hooks import replace
from microtome.targets.language_model import LanguageModel, token_losses

FEW = ["--num_samples", "8", "--max_length", "32", "--dataset", "builtin", "--device", "cpu", "--quiet"]


def by_hand(lm: LanguageModel, batch, path: str, dictionary, features: list[int], factor: float) -> float:
    """The loss when features are changed, everything recomputed densely."""
    loaded = dictionary.load() if hasattr(dictionary, "load") else None

    def change(x: torch.Tensor) -> torch.Tensor:
        if loaded is None:
            changed = x.clone()
            changed[..., features] *= 1 + factor
            return changed
        f = loaded.encode(x)
        new = f.clone()
        new[..., features] *= 1 + factor
        return x + (loaded.decode(new, like=x) - loaded.decode(f, like=x)).to(x)

    with replace(lm.model, {path: change}), torch.no_grad():
        return float(token_losses(lm, batch.input_ids, batch.attention_mask)[0])


@pytest.mark.parametrize("kind", ["topk", "layer_norm", "identity"])
def test_interventions_are_those_of_changing_features_by_hand(kind: str, tmp_path: Path) -> None:
    lm, batch = random_model(dtype=torch.float32), random_batch(4, 12)
    path = lm.path(1)
    torch.manual_seed(2)
    if kind == "identity":
        dictionary = Identity(D_MODEL)
    else:
        changes = {"normalisation": "layer_norm"} if kind == "layer_norm" else {}
        dictionary = random_dictionary(1, **changes)
        if not changes:  # through a file, as a run does
            save_sparsify(dictionary, tmp_path / "layers.1.mlp")
            dictionary = open_dictionary(tmp_path / "layers.1.mlp")
        else:
            dictionary = _InMemory(dictionary)
    intervention = LayerIntervention(lm, path, dictionary, [batch])
    base = float(token_losses(lm, batch.input_ids, batch.attention_mask)[0])
    assert intervention.base == pytest.approx(base, rel=1e-6)
    assert intervention.scored == int(batch.attention_mask.sum()) - len(batch.index)
    acting = torch.nonzero(intervention.firing)[:, 0].tolist()
    features = acting[:3] + acting[-2:]
    single = intervention.single(features)
    for feature, change in zip(features, single.tolist(), strict=True):
        expected = by_hand(lm, batch, path, dictionary, [feature], -1.0) - base
        assert change == pytest.approx(expected, abs=2e-4)
    assert single.abs().max() > 0.01
    together = intervention.together(features, 0.5)
    assert together == pytest.approx(by_hand(lm, batch, path, dictionary, features, 0.5) - base, abs=2e-4)


class _InMemory:
    """A dictionary module as a run asks for one."""

    def __init__(self, dictionary) -> None:
        self.dictionary, self.config, self.b_dec = dictionary, dictionary.config, dictionary.b_dec
        self.load = lambda: dictionary

    def decoder_rows(self, a: int, b: int) -> torch.Tensor:
        return self.dictionary.W_dec[a:b]

    def active(self, x: torch.Tensor, *, block: int, dtype: torch.dtype):
        f = self.dictionary.encode(x)
        return f, torch.arange(f.shape[1]).expand(f.shape)


def test_the_loss_of_each_sample_adds_up() -> None:
    lm, batch = random_model(), random_batch(5, 10)
    losses = sample_losses(lm, batch.input_ids, batch.attention_mask)
    whole, n = token_losses(lm, batch.input_ids, batch.attention_mask)
    assert float(losses.sum()) == pytest.approx(float(whole), rel=1e-6)
    assert n == int(batch.attention_mask.sum()) - 5


def test_rank_correlation_is_scipys() -> None:
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(2, 30))
    assert rank_correlation(a, b) == spearmanr(a, b).statistic
    assert np.isnan(rank_correlation(np.ones(5), np.arange(5.0)))


def test_attribution_predicts_ablations_and_the_rest_is_written(
    model_folder: Path, saes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--model_name", str(model_folder), "--sae_path", str(saes), "--no_check_dictionary", *FEW]
    more = ["--save_outputs", "--validate", "20", "--layers", "1-2"]
    assert main(["gradients", "features", *words, *more]) == 0
    (folder,) = Path().glob("sae_features_*")
    summary = json.loads((folder / "summary.json").read_text())["validation"]
    assert summary["spearman"]["|attribution|"] > 0.7
    assert summary["spearman"]["|attribution|"] > summary["spearman"]["mean_abs (documented)"] + 0.2
    written = json.loads((folder / "results" / "validation_layer_1.json").read_text())
    assert len(written["ablations"]) == 20 and {"change", "predicted", "|attribution|"} <= set(
        written["ablations"][0]
    )
    small = [row for row in written["nudges"] if abs(row["factor"]) == 0.1]
    for row in small:  # a small step moves the loss as the gradient says
        assert row["change"] == pytest.approx(row["predicted"], rel=0.35)
    assert set(written["removed_together"]) == {"attribution", "mean_abs (documented)", "random"}
    assert (folder / "layer_2_validation.png").stat().st_size > 10_000
    assert "|attribution|" in capsys.readouterr().out
    assert main(["gradients", "report", str(folder)]) == 0
    page = (folder / "report.html").read_text()
    assert "Do the scores predict?" in page and "⟦" in page and "<script" not in page


def test_raw_layers_are_validated_too(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--model_name", str(model_folder), *FEW, "--layers", "2", "--validate", "6", "--no_plots"]
    assert main(["gradients", "layers", *words, "--save_outputs"]) == 0
    (folder,) = Path().glob("layer_activations_*")
    summary = json.loads((folder / "summary.json").read_text())["validation"]
    assert summary["spearman"]["attribution, signed"] > 0.5


# -- two runs against each other


def test_a_run_against_itself_has_not_changed(lm: LanguageModel, saes: Path) -> None:
    how = {"device": "cpu", "max_length": 32, "check_dictionary": False}
    a = feature_importance(lm, TEXTS, str(saes), **how)
    same = compare(a, a)
    for one in same.layers.values():
        assert one.spearman == pytest.approx(1) and one.overlap == 1 and one.significant == 0
    assert (same.frame(5)["change"] == 0).all() and len(same.frame(5)) == 5 * N_LAYERS
    assert same.plot().axes and "<table" in same._repr_html_()


def test_changes_are_told_from_noise_by_the_standard_errors() -> None:
    """1,000 values of which five truly changed, by twenty standard errors."""
    draw = np.random.default_rng(0)
    true = draw.lognormal(size=1000)
    error = np.full(1000, 0.02)
    changed = [3, 100, 500, 700, 999]
    moved = true.copy()
    moved[changed] += 20 * 0.02 * np.sqrt(2)

    def result(values: np.ndarray) -> GradientResult:
        seen = (values + draw.normal(scale=0.02, size=1000)).astype(np.float32)
        return GradientResult("layers", {0: {"gradients_mean": seen, "gradients_mean_error": error}})

    noise = compare(result(true), result(true)).layers[0]
    assert noise.significant == 0
    assert noise.ceiling == pytest.approx(np.corrcoef(noise.a, noise.b)[0, 1], abs=1e-3)
    found = compare(result(true), result(moved)).layers[0]
    assert found.significant == 5
    assert sorted(found.most_changed(5).tolist()) == changed
    assert np.abs(found.a).sum() == pytest.approx(1000)


def test_runs_that_cannot_be_compared(lm: LanguageModel, saes: Path, tmp_path: Path, capsys) -> None:
    how = {"device": "cpu", "max_length": 32}
    features = feature_importance(lm, TEXTS[:3], str(saes), check_dictionary=False, layers="0", **how)
    with pytest.raises(MicrotomeError, match="no layer in common"):
        compare(features, layer_importance(lm, TEXTS[:3], layers="1", **how))
    with pytest.raises(MicrotomeError, match="48 values against 16"):
        compare(features, layer_importance(lm, TEXTS[:3], layers="0", **how))
    with pytest.raises(CannotLoad):
        compare(features, tmp_path / "none")
    assert main(["gradients", "compare", "one"]) == 2
    assert "takes two results" in capsys.readouterr().err


def test_comparing_two_folders_writes_a_run(
    model_folder: Path, saes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    for root, seed in (("a", "6"), ("b", "7")):
        words = ["--model_name", str(model_folder), "--output_root", root, *FEW, "--num_samples", seed]
        assert main(["gradients", "layers", *words, "--save_outputs", "--no_plots"]) == 0
    (a,), (b,) = (list(Path(root).iterdir()) for root in "ab")
    assert main(["gradients", "compare", str(a), str(b), "--out_dir", "c"]) == 0
    assert {"changes.csv", "comparison.png", "summary.json"} <= {p.name for p in Path("c").iterdir()}
    assert "Spearman" in capsys.readouterr().out
