"""Lists of layers, folder names, normalisation."""

import datetime

import numpy as np
import pytest

from microtome.core.errors import MicrotomeError
from microtome.gradients.config import FeaturesConfig, LayersConfig
from microtome.gradients.names import Entry, entries, folder_name
from microtome.gradients.normalise import normalise_gradients, powered
from microtome.targets.layer_list import choose_layers, layer_words, parse_layers


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("0-3", [0, 1, 2, 3]),
        ("0,5,10", [0, 5, 10]),
        ("0-2,10", [0, 1, 2, 10]),
        (" 3 , 1-2 ", [3, 1, 2]),
        ("4", [4]),
        ("1,1-2", [1, 2]),
    ],
)
def test_lists(text: str, layers: list[int]) -> None:
    assert parse_layers(text) == layers


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "3-1", "0,,2", "1.5", "0-5-7", "0-999999999"])
def test_what_is_no_list_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(MicrotomeError, match="layers=") as refused:
        parse_layers(text)
    assert "\n" not in str(refused.value)


def test_a_layer_out_of_range_says_the_range() -> None:
    with pytest.raises(MicrotomeError, match="the model has 24 layers, no layer 24; choose 0-23"):
        choose_layers("20-24", 24)
    assert choose_layers(None, 3) == choose_layers("all", 3) == [0, 1, 2]


def test_words_are_the_shortest_list() -> None:
    assert layer_words([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"
    assert parse_layers(layer_words([3, 1, 2])) == [3, 1, 2]


def test_folder_names_are_the_documented_patterns() -> None:
    now = datetime.datetime(2026, 1, 2, 3, 4, 5)
    assert (
        folder_name("features", "Qwen/Qwen2.5-0.5B", 500, 4, "0-23", now=now)
        == "sae_features_model_Qwen_Qwen2.5-0.5B_num_samples_500_batch_size_4_layers_0to23_20260102_030405"
    )
    name = folder_name("layers", "google/gemma-2-2b", 10, 8, "0,5,10", now=now)
    assert name.startswith("layer_activations_model_google_gemma-2-2b_num_samples_10_batch_size_8_layers_")
    assert name.endswith("_layers_0_5_10_20260102_030405")
    special = folder_name("layers", "m", 1, 1, "0", aggregate_by="values", power=2.0, now=now)
    assert special.endswith("_layers_0_agg_values_power_2_20260102_030405")


def test_keys() -> None:
    assert Entry(3, "mean_abs").key == "layer_3_mean_abs"
    found = [entry.key for entry in entries([0], "both", "all")]
    assert found[:3] == ["layer_0_mean", "layer_0_mean_norm_sum", "layer_0_mean_norm_sum_abs"]
    assert len(found) == 6
    assert [entry.key for entry in entries([0], "mean_abs", "sum_abs")] == ["layer_0_mean_abs"]


def test_normalised_values_add_up_to_their_number() -> None:
    values = np.random.default_rng(0).normal(size=896)
    assert np.abs(normalise_gradients(values)).sum() == pytest.approx(896, rel=1e-12)
    assert normalise_gradients(values, "sum").sum() == pytest.approx(896, rel=1e-9)
    assert normalise_gradients(values, "none") is values
    np.testing.assert_allclose(powered(np.array([-2.0, 3.0]), 2.0), [-4, 9])
    with pytest.warns(UserWarning, match="zero"):
        assert not normalise_gradients(np.zeros(4)).any()


def test_settings_that_cannot_be() -> None:
    with pytest.raises(MicrotomeError, match="layers='5-1'"):
        LayersConfig.from_mapping({"layers": "5-1"})
    with pytest.raises(MicrotomeError, match="always active"):
        LayersConfig.from_mapping({"aggregate_by": "active_gradients"})
    with pytest.raises(MicrotomeError, match="sae_mode"):
        FeaturesConfig.from_mapping({"sae_mode": "spliced"})
    assert LayersConfig.from_mapping({"normalize_gradients": True}).normalize_gradients == "sum_abs"
    assert LayersConfig.from_mapping({"normalize_mode": "both"}).normalize_gradients == "both"
    assert LayersConfig.from_mapping({"layers": [0, 2]}).layers == "0,2"
