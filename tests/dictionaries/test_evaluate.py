"""What dictionaries are worth: numbers against slow references, splicing, warnings."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from microtome.core.errors import MicrotomeError
from microtome.data.text import token_batches
from microtome.dictionaries import DictionaryConfig, new_dictionary
from microtome.dictionaries.activations import (
    LanguageModelSource,
    TokenChoice,
    site_activations,
    without_huge,
)
from microtome.dictionaries.dictionary import Dictionary
from microtome.dictionaries.evaluate import evaluate
from microtome.dictionaries.evaluate_config import DictionaryEvaluateConfig
from microtome.dictionaries.pca import SecondMoments, unexplained_by_rank
from microtome.dictionaries.quality import QualityMeasure, nearest_decoder_cosine, warnings_about
from microtome.dictionaries.splice import loss_recovered, mean_loss
from microtome.hooks import record
from microtome.targets.language_model import LanguageModel


def exact(d: int, layer: int = 0, site: str = "mlp") -> Dictionary:
    """A dictionary that reconstructs everything: positive and negative parts of each coordinate."""
    dictionary = new_dictionary(
        DictionaryConfig.from_mapping(
            {"architecture": "relu", "d_in": d, "n_features": 2 * d, "layer": layer, "site": site}
        )
    )
    with torch.no_grad():
        dictionary.W_enc.copy_(torch.cat([torch.eye(d), -torch.eye(d)]))
        dictionary.W_dec.copy_(dictionary.W_enc)
    return dictionary.requires_grad_(False)


def test_principal_components_against_scikit_learn() -> None:
    mixing = torch.randn(6, 6)
    fitted, held_out = torch.randn(300, 6) @ mixing + 2, torch.randn(200, 6) @ mixing + 2.5
    moments = SecondMoments(6), SecondMoments(6)
    for part in fitted.split(70):
        moments[0].add(part)
    moments[1].add(held_out)
    curve = unexplained_by_rank(*moments)
    variance = held_out.sub(held_out.mean(0)).square().sum()
    for rank in range(7):
        pca = PCA(rank).fit(fitted.numpy()) if rank else None
        mean = torch.from_numpy(fitted.numpy().mean(0))
        x_hat = (
            torch.from_numpy(pca.inverse_transform(pca.transform(held_out.numpy())))
            if pca
            else mean.expand_as(held_out)
        )
        expected = float((held_out - x_hat).square().sum() / variance)
        assert float(curve[rank]) == pytest.approx(expected, abs=1e-4)


def test_numbers_by_hand() -> None:
    dictionary = exact(2)
    with torch.no_grad():
        dictionary.W_dec[0] *= 0.5
    measure = QualityMeasure(dictionary)
    x = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [1.0, 1.0], [-1.0, 3.0]])
    measure.fit(torch.tensor([[0.0, -1.0]]))
    measure.add(x[:3])
    measure.add(x[3:])
    q = measure.result()
    assert q.n_inputs == 4 and q.l0 == pytest.approx(6 / 4)
    # Errors: 1, 0, 0.5, 0; the mean is (0, 1).
    total = (4 + 1) + (4 + 1) + 1 + (1 + 4)
    assert q.fvu == pytest.approx((1 + 0.25) / total) and q.explained_variance == pytest.approx(1 - q.fvu)
    assert q.dead == 0  # the fourth feature acts on the fitted input only
    assert measure.density.tolist() == pytest.approx([2 / 5, 2 / 5, 2 / 5, 1 / 5])
    assert q.pca_rank == 2 and q.pca_fvu is None
    lengths = [1.0, 2.0, math.hypot(0.5, 1), math.hypot(1, 3)]
    expected = sum(lengths) / sum([2.0, 2.0, math.hypot(1, 1), math.hypot(1, 3)])
    assert q.length_ratio == pytest.approx(expected)


def test_nearest_decoder_rows() -> None:
    rows = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    assert nearest_decoder_cosine(rows) == pytest.approx(1.0)
    assert nearest_decoder_cosine(rows[1:]) == pytest.approx(0.0)


def test_what_is_said_loudly() -> None:
    def lines(dictionary: Dictionary, x: torch.Tensor) -> str:
        measure = QualityMeasure(dictionary)
        measure.fit(x)
        measure.add(x)
        return "; ".join(warnings_about("it", measure.result()))

    x = torch.randn(200, 6) @ torch.diag(torch.tensor([9.0, 9, 1, 1, 1, 1]))
    dead = new_dictionary(DictionaryConfig(architecture="relu", d_in=6, n_features=8))
    assert "it is DEAD" in lines(dead, x) and "NO BETTER THAN THE MEAN" in lines(dead, x)
    poor = new_dictionary(DictionaryConfig(architecture="topk", d_in=6, n_features=12, k=2))
    with torch.no_grad():
        poor.W_enc[4:8, 2:].copy_(torch.eye(4))
        poor.W_dec.copy_(poor.W_enc)
    assert "NO BETTER THAN PCA" in lines(poor, x) and "MOSTLY DEAD" in lines(poor, x)
    everything = exact(6)
    with torch.no_grad():
        everything.b_enc.fill_(50.0)
    assert "NOT SPARSE" in lines(everything, x)
    one_at_a_time = torch.eye(6).repeat(20, 1) * torch.randn(120, 1)
    assert lines(exact(6), one_at_a_time) == ""


# -- on a language model


def batches_of(lm: LanguageModel, texts: list[str]):
    return list(token_batches(texts, lm.tokenizer, max_length=32, batch_size=4))


TEXTS = [
    "A string is a sequence of characters.",
    "Lists are mutable; tuples are not.",
    "def f(x): return x",
] * 3


def test_stopping_early_gives_the_same_activations(lm: LanguageModel) -> None:
    batch = batches_of(lm, TEXTS)[0]
    for layers in ([0], [0, 1]):
        paths = [lm.path(layer, site) for layer in layers for site in ("mlp",)]
        found = site_activations(lm, batch, paths)
        with record(lm.model, paths) as whole, torch.no_grad():
            lm.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
        assert found.keys() == whole.keys()
        for path in paths:
            torch.testing.assert_close(found[path], whole[path])


def test_padding_first_and_huge_tokens_are_left_out(lm: LanguageModel) -> None:
    def rows(**choice) -> int:
        source = LanguageModelSource(
            lm, TEXTS, [1], "mlp", max_length=32, texts_at_once=4, choice=TokenChoice(**choice)
        )
        return sum(len(source.activations(batch)["layers.1.mlp"]) for batch in source.batches)

    tokens = sum(int(batch.attention_mask.sum()) for batch in batches_of(lm, TEXTS))
    assert rows() == tokens and rows(skip_first=True) == tokens - len(TEXTS)
    x = torch.ones(9, 2)
    x[3] *= 11
    x[5] = float("nan")
    assert without_huge(x, 10.0).tolist() == [i != 3 for i in range(9)]
    assert without_huge(x, None).all()


def test_chunks_can_be_begun_anywhere(lm: LanguageModel) -> None:
    source = LanguageModelSource(lm, TEXTS, [0, 1], "resid", max_length=16, texts_at_once=2, seed=3)
    stream = source.chunks(0)
    chunks = [next(stream) for _ in range(13)]  # more than two rounds of five
    later = source.chunks(7)
    for number in range(7, 13):
        again = next(later)
        assert all(torch.equal(again[name], chunks[number][name]) for name in again)
    first, second = ([float(chunk["layers.1.resid"].sum()) for chunk in chunks[i : i + 5]] for i in (0, 5))
    assert first != second and sorted(first) == pytest.approx(sorted(second))


def test_splicing_an_exact_dictionary_costs_nothing(lm: LanguageModel) -> None:
    batches = batches_of(lm, TEXTS)
    mean = torch.randn(16)
    found = loss_recovered(lm, exact(16), lm.path(0, "mlp"), mean, batches)
    assert found["loss_spliced"] == pytest.approx(found["loss"], rel=1e-5)
    assert found["loss_recovered"] == pytest.approx(1.0, abs=1e-3)
    dead = new_dictionary(DictionaryConfig(architecture="relu", d_in=16, n_features=4)).requires_grad_(False)
    nothing = loss_recovered(lm, dead, lm.path(0, "mlp"), mean, batches, clean=found["loss"])
    assert nothing["loss_spliced"] == pytest.approx(nothing["loss_zero"])
    assert nothing["loss_recovered"] == pytest.approx(0.0, abs=1e-6)
    with torch.no_grad():
        dead.b_dec.copy_(mean)
    at_mean = loss_recovered(lm, dead, lm.path(0, "mlp"), mean, batches)
    assert at_mean["loss_recovered_from_mean"] == pytest.approx(0.0, abs=1e-6)


def test_zero_ablation_against_the_model_without_its_mlp(lm: LanguageModel) -> None:
    batches = batches_of(lm, TEXTS)
    ablated = mean_loss(lm, batches, lm.path(1, "mlp"), torch.zeros_like)
    with torch.no_grad():
        lm.model.get_submodule(lm.path(1, "mlp")).down_proj.weight.zero_()
    assert mean_loss(lm, batches) == pytest.approx(ablated, rel=1e-5)


def test_evaluating_several_dictionaries(lm: LanguageModel, text_file: Path) -> None:
    config = DictionaryEvaluateConfig(dataset=str(text_file), max_tokens=400, max_length=32)
    found = evaluate(lm, {"a": exact(16), "b": exact(16, layer=1, site="resid")}, config)
    for name in ("a", "b"):
        numbers = found.numbers[name]
        assert numbers["fvu"] == pytest.approx(0.0, abs=1e-6) and numbers["l0"] == pytest.approx(16, abs=0.1)
        assert numbers["loss_recovered"] == pytest.approx(1.0, abs=1e-3)
        assert np.isclose(found.density[name].sum(), 16, atol=0.1)
    assert any("NOT SPARSE" in line for line in found.warnings)
    with pytest.raises(MicrotomeError, match="give --layers and --site"):
        evaluate(lm, {"a": exact(16, layer=0).requires_grad_(False), "c": _placeless()}, config)
    with pytest.raises(MicrotomeError, match="d_in=4"):
        evaluate(lm, {"a": exact(4)}, config)


def _placeless() -> Dictionary:
    return new_dictionary(DictionaryConfig(architecture="relu", d_in=16, n_features=4))
