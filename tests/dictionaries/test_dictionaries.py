"""Architectures: encoding block by block, normalisation of single inputs, fitting sites."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.core.errors import MicrotomeError
from microtome.dictionaries import (
    DictionaryConfig,
    check_reconstruction,
    explained_variance,
    fitting_site,
    new_dictionary,
)
from microtome.dictionaries.active import block_active
from microtome.dictionaries.architectures import ARCHITECTURES
from microtome.dictionaries.dictionary import Dictionary


def random_dictionary(architecture: str, d: int = 5, n: int = 24, k: int = 4, **more) -> Dictionary:
    dictionary = new_dictionary(
        DictionaryConfig.from_mapping(
            {"architecture": architecture, "d_in": d, "n_features": n, "k": k, **more}
        )
    )
    with torch.no_grad():
        for value in dictionary.parameters():
            value.normal_()
    return dictionary.requires_grad_(False)


@settings(max_examples=40, deadline=None)
@given(
    architecture=st.sampled_from(sorted(ARCHITECTURES)),
    block=st.integers(1, 40),
    k=st.sampled_from([1, 2, 3, 4, 6, 8, 12, 24]),
    rows=st.integers(1, 9),
    seed=st.integers(0, 1000),
)
def test_active_features_do_not_depend_on_the_block(architecture, block, k, rows, seed) -> None:
    torch.manual_seed(seed)
    dictionary = random_dictionary(architecture, k=k)
    x = torch.randn(rows, 5)
    vectors = [getattr(dictionary, name) for name in dictionary.vectors]
    values, indices = block_active(
        x - dictionary.b_dec,
        lambda a, b: dictionary.W_enc[a:b],
        lambda projection, a, b: dictionary.candidates(projection, *(v[a:b] for v in vectors)),
        dictionary.config,
        block,
    )
    dense = torch.zeros(rows, 24).scatter_add(1, indices, values)
    torch.testing.assert_close(dense, dictionary.encode(x), atol=1e-5, rtol=1e-5)
    assert values.shape == indices.shape


def test_encoding_any_leading_shape() -> None:
    dictionary = random_dictionary("topk")
    x = torch.randn(2, 3, 5)
    f = dictionary.encode(x)
    assert f.shape == (2, 3, 24) and ((f > 0).sum(-1) <= 4).all()
    torch.testing.assert_close(dictionary.encode(x[1, 2]), f[1, 2])
    assert dictionary(x).shape == x.shape


@pytest.mark.parametrize("normalisation", ["layer_norm", "constant_norm"])
def test_normalised_inputs_are_put_back(normalisation: str) -> None:
    dictionary = random_dictionary("relu", normalisation=normalisation)
    x = torch.randn(7, 5) * 3 + 1
    # A stretched input has the same features, and its reconstruction is stretched.
    torch.testing.assert_close(dictionary.encode(4 * x), dictionary.encode(x), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(dictionary(4 * x), 4 * dictionary(x), atol=1e-3, rtol=1e-3)
    with pytest.raises(MicrotomeError, match="give the input that was encoded"):
        dictionary.decode(dictionary.encode(x))


def test_configurations_that_cannot_be() -> None:
    for values, message in (
        ({"architecture": "topk"}, "k=None"),
        ({"architecture": "topk", "k": 9}, "k=9: there are only 8 features"),
        ({"architecture": "groupmax", "k": 3}, "does not divide n_features=8"),
        ({"architecture": "matryoshka", "prefixes": [4, 2, 8]}, "must grow and end"),
        ({"architecture": "sparse"}, "architecture='sparse'"),
    ):
        with pytest.raises(MicrotomeError, match=message):
            DictionaryConfig.from_mapping({"d_in": 2, "n_features": 8, **values})


def test_explained_variance_by_hand() -> None:
    x = torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    assert explained_variance(x, x) == 1.0
    assert explained_variance(x, torch.tensor([[1.0, 0.0], [1.0, 0.0]])) == 0.0
    assert explained_variance(x, torch.tensor([[0.0, 0.0], [1.0, 0.0]])) == pytest.approx(0.5)


def test_a_dictionary_of_another_site_shows() -> None:
    dictionary = random_dictionary("relu", d=5, n=10)
    with torch.no_grad():  # positive and negative parts: reconstructs inputs of this site exactly
        dictionary.W_enc.copy_(torch.cat([torch.eye(5), -torch.eye(5)]))
        dictionary.W_dec.copy_(dictionary.W_enc)
        dictionary.b_enc.zero_()
        dictionary.b_dec.fill_(1.0)
    x = torch.randn(50, 5)
    assert check_reconstruction(dictionary, x) == pytest.approx(1.0)
    with torch.no_grad():
        dictionary.W_dec[:5] *= 20
    with pytest.raises(MicrotomeError, match=r"explains -?\d.*another site, layer or model"):
        check_reconstruction(dictionary, x)
    with pytest.raises(MicrotomeError):
        check_reconstruction(dictionary, torch.full((4, 5), float("nan")))
    sites = {"mlp": x.abs() + 9, "resid": -x.abs() - 1, "wider": torch.randn(50, 6)}
    best, scores = fitting_site(dictionary, sites)
    assert best == "resid" and scores["wider"] == float("-inf") and scores["resid"] > 0.9 > scores["mlp"]
