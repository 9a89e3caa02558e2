"""Ablation against networks whose weights are changed by hand, and the null that it is compared with."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from known_mechanisms import Tokens, decomposition, language_decomposition, token_decomposition
from torch import nn
from torch.nn import functional

from microtome.core.errors import MicrotomeError
from microtome.data.images import ArrayData
from microtome.decomposition.mechanisms.ablation import ablate
from microtome.decomposition.mechanisms.component_names import parse_components
from microtome.decomposition.mechanisms.random_sets import random_sets


def classifier():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def parts_of(module, c=5):
    torch.manual_seed(1)
    return {
        str(i): (torch.randn(module[i].in_features, c), torch.randn(c, module[i].out_features))
        for i in (0, 2)
    }


def changed(module, parts, chosen, only):
    """The module with its weights changed by hand."""
    module = copy.deepcopy(module)
    for site, (v, u) in parts.items():
        here = v[:, chosen.get(site, [])] @ u[chosen.get(site, [])]
        weight = here if only else module[int(site)].weight.detach().T - here
        module[int(site)].weight.data = weight.T.contiguous()
    return module


def labelled(n=30):
    g = torch.Generator().manual_seed(2)
    return ArrayData(torch.randn(n, 4, generator=g), torch.randint(3, (n,), generator=g))


@pytest.mark.parametrize("kind", ["mse", "kl"])
@torch.no_grad()
def test_removed_and_only_are_the_network_with_its_weights_changed(kind):
    module, data = classifier(), labelled()
    parts = parts_of(module)
    d = decomposition(module, parts, -100.0, output_loss_type=kind)
    chosen = {"0": [1, 3], "2": [0]}
    found = ablate(d, chosen, data=data, n_batches=3, batch_size=10, n_random=7, at_once=3)
    wanted = module(data.x)
    for change, only in (("removed", False), ("only", True)):
        out = changed(module, parts, chosen, only)(data.x)
        kl = (wanted.softmax(-1) * (wanted.log_softmax(-1) - out.log_softmax(-1))).sum(-1)
        slow = {
            "mse": (out - wanted).square().mean(-1),
            "kl": kl,
            "cross_entropy": functional.cross_entropy(out, data.y, reduction="none"),
            "accuracy": (out.argmax(-1) == data.y).float(),
        }
        base = {
            "cross_entropy": functional.cross_entropy(wanted, data.y, reduction="none"),
            "accuracy": (wanted.argmax(-1) == data.y).float(),
        }
        for measure in (kind, "cross_entropy", "accuracy"):
            row = found.row(change, measure)
            assert row["value"] == pytest.approx(float(slow[measure].mean()), rel=1e-4)
            assert row["target"] == pytest.approx(
                float(base[measure].mean()) if measure in base else 0.0, abs=1e-6
            )
            effect = slow[measure] - base.get(measure, torch.zeros(30))
            assert row["standard_error"] == pytest.approx(float(effect.std()) / math.sqrt(30), rel=1e-3)
            assert row["n_random"] == 7 and len(found.random[f"{change}/{measure}"]) == 7
    assert found.n_inputs == 30 and found.names == ["0:1", "0:3", "2:0"]


@torch.no_grad()
def test_random_sets_are_measured_as_the_chosen_one_is():
    module, data = classifier(), labelled()
    parts = parts_of(module, c=4)
    d = decomposition(module, parts, -100.0)
    found = ablate(d, ["0:2"], data=data, n_batches=3, batch_size=10, n_random=50)
    wanted = module(data.x)
    slow = sorted(
        float((changed(module, parts, {"0": [c]}, False)(data.x) - wanted).square().mean()) for c in (0, 1, 3)
    )
    assert sorted(found.random["removed/mse"].tolist()) == pytest.approx(slow, rel=1e-4)
    row = found.row("removed", "mse")
    assert row["p"] == (1 + sum(v >= row["value"] for v in found.random["removed/mse"])) / 4
    assert row["random_mean"] == pytest.approx(np.mean(slow), rel=1e-4)
    kept = found.row("only", "mse")
    assert kept["p"] == (1 + sum(v <= kept["value"] for v in found.random["only/mse"])) / 4


def test_components_in_one_string_are_those_of_a_list():
    module, data = classifier(), labelled()
    d = decomposition(module, parts_of(module, c=4), -100.0)
    listed, told = (
        ablate(d, names, data=data, n_batches=1, batch_size=10, n_random=2)
        for names in (["0:2", "0:3"], "0:2, 0:3")
    )
    assert told.components == listed.components == {"0": [2, 3]}
    assert told.row("removed", "mse") == listed.row("removed", "mse")


@torch.no_grad()
def test_weighed_by_causal_importance_is_a_plain_masked_network():
    module, data = classifier(), labelled()
    parts = parts_of(module)
    d = decomposition(module, parts, 0.3)
    found = ablate(d, {"2": [1]}, data=data, masks="ci", n_batches=1, batch_size=30, n_random=0)
    ci = d.causal_importances(data.x[None])
    out = {}
    for change in ("removed", "only"):
        h = data.x
        for site in ("0", "2"):
            v, u = parts[site]
            keep = torch.full((5,), 0.0 if change == "only" else 1.0)
            if site == "2":
                keep[1] = 1 - keep[1]
            weight = ci[site].lower[0].clamp(0, 1) * keep
            # The batch comes in random order: causal importances are those of the target's own activations.
            h = ((h @ v) * weight) @ u + module[int(site)].bias
            h = torch.relu(h) if site == "0" else h
        out[change] = float((h - module(data.x)).square().mean())
        assert found.row(change, "mse")["value"] == pytest.approx(out[change], rel=1e-4)
        assert found.row(change, "mse")["p"] is None


def test_what_carries_a_token_is_found_by_removing_it():
    d = token_decomposition()
    ids = torch.tensor([[2, 2, 2, 2], [2, 2, 2, 2]])
    ids = torch.cat([ids, (torch.arange(4) + torch.arange(2)[:, None]) % 6])
    found = ablate(d, ["up:2", "down:2"], data=Tokens(ids), n_batches=1, batch_size=4, n_random=20)
    row = found.row("removed", "kl")
    assert row["p"] == pytest.approx(1 / (1 + row["n_random"])) and row["value"] > 3 * row["random_mean"]
    kept = found.row("only", "kl")
    assert kept["value"] < kept["random_mean"] and kept["p"] == pytest.approx(1 / (1 + kept["n_random"]))


def test_losses_of_text_are_those_of_the_next_token():
    d = language_decomposition()
    ids = torch.randint(20, (4, 7))
    found = ablate(d, ["transformer.h.0.mlp.c_fc:1"], data=Tokens(ids), n_batches=2, batch_size=2, n_random=2)
    with torch.no_grad():
        logits = d.target(ids[None])[0]
    slow = functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    hits = (logits[:, :-1].argmax(-1) == ids[:, 1:]).float().mean()
    assert found.row("removed", "cross_entropy")["target"] == pytest.approx(float(slow), rel=1e-5)
    assert found.row("removed", "accuracy")["target"] == pytest.approx(float(hits))
    assert found.row("removed", "kl")["value"] > 0


def test_random_sets_fit_the_chosen_one():
    rng = np.random.default_rng(0)
    chosen = {"a": [0, 3], "b": [1]}
    alive = {"a": np.array([1, 1, 1, 1, 1, 0], bool), "b": np.ones(4, bool)}
    importance = {"a": np.linspace(1, 0.1, 6), "b": np.ones(4)}
    sets = random_sets(chosen, importance, alive, 50, "alive", rng)
    assert len(sets) == 9  # all there are: 3 over 2, times 3
    assert {tuple(one["a"]) for one in sets} == set(itertools.combinations([1, 2, 4], 2))
    assert {tuple(one["b"]) for one in sets} == {(0,), (2,), (3,)}
    assert random_sets({"a": [0, 1, 2]}, importance, alive, 5, "alive", rng) == []


def test_matched_sets_take_components_that_matter_as_much():
    rng = np.random.default_rng(0)
    importance = {"a": np.concatenate([np.full(30, 1e-4), np.full(30, 0.5)])}
    alive = {"a": np.ones(60, bool)}
    sets = random_sets({"a": [35, 2]}, importance, alive, 40, "matched", rng)
    assert all((np.array(one["a"]) >= 30).sum() == 1 for one in sets)
    assert all(not set(one["a"]) & {35, 2} and len(set(one["a"])) == 2 for one in sets)


def test_names_of_components():
    sizes = {"layers.0": 4, "layers.1": 9}
    assert parse_components(["layers.1:3-5", "layers.0:*", "layers.1:0"], sizes) == {
        "layers.0": [0, 1, 2, 3],
        "layers.1": [0, 3, 4, 5],
    }
    for name, told in [
        ("layer.1:3", "did you mean layers.1:3"),
        ("layers.0:4", "use 0 to 3"),
        ("layers.0:x", "site:3-7"),
        ("layers.0:3-1", "use 0 to 3"),
        ("17", "sites: layers.0, layers.1"),
    ]:
        with pytest.raises(MicrotomeError, match=told):
            parse_components([name], sizes)
    with pytest.raises(MicrotomeError, match="none are named"):
        ablate(token_decomposition(), [], data=Tokens(torch.zeros(1, 3, dtype=torch.long)))
