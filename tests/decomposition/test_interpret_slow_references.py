"""Every interpretive number on decompositions with noise, against loops and ablations by hand."""

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from interpret_models import disturbed, planted, subject

from microtome.decomposition.apd_plain import attributions
from microtome.decomposition.attribution.topk import topk_mask
from microtome.decomposition.interpret.activity import activity, correlations
from microtome.decomposition.interpret.attributions import attribution_scores
from microtome.decomposition.interpret.config import InterpretConfig
from microtome.decomposition.interpret.feature_losses import losses_in_sweep, losses_in_training
from microtome.decomposition.interpret.label_errors import label_errors, representation
from microtome.decomposition.interpret.responses import feature_responses, response_curves, signal_to_noise
from microtome.decomposition.interpret.scrubbing import ABLATIONS, ablated_responses, scrubbing
from microtome.decomposition.interpret.selection import own_masks, responsible

KINDS = ["spd tms", "apd tms", "spd resid_mlp", "apd resid_mlp"]


@pytest.fixture(scope="module")
def subjects(tmp_path_factory):
    root = tmp_path_factory.mktemp("noisy")

    @cache
    def make(kind):
        method, task = kind.split()
        # With biases no neuron of the target is exactly at the kink of its ReLU.
        sizes = {"biases": True} if task == "resid_mlp" else {}
        return subject(
            disturbed(planted(root / kind.replace(" ", "_"), method, task, **sizes)), n_samples=120
        )

    return make


def by_hand(d, k, row, masks=None):
    """One input through one instance: weights are summed component by component, layer after layer."""
    weights = {}
    for name, (left, right) in d.factors.items():
        parts = [left[k, c] @ right[k, c] for c in range(left.shape[1])]
        scale = torch.ones(len(parts)) if masks is None else masks[name]
        weights[name] = torch.stack([s * p for s, p in zip(scale, parts, strict=True)]).sum(0)
    return through(d.target, k, row, weights)


def through(target, k, row, weights):
    state = target.state_dict()
    if "linear1.weight" in state:
        return torch.relu(row @ weights["linear1"] @ weights["linear2"] + state["b_final"][k])
    embed, unembed = (state[name][min(k, len(state[name]) - 1)] for name in ("W_E", "W_U"))
    stream = row @ embed
    biases = [state[f"layers.0.{part}.bias"][k] for part in ("mlp_in", "mlp_out")]
    neurons = torch.relu(stream @ weights["layers.0.mlp_in"] + biases[0])
    return (stream + neurons @ weights["layers.0.mlp_out"] + biases[1]) @ unembed


def targets(d, k, row):
    return through(d.target, k, row, {name: site.weight[k] for name, site in d.sites.items()})


def labels(d, row, k=0):
    if "linear1" in d.sites:
        return row
    read = torch.tensor(json.loads((d.source.parent / "label_coeffs.json").read_text()))
    return row + torch.relu(row * (read if read.ndim == 1 else read[k]))


def gates(d, k, row):
    found = d.causal_importances(row.expand(d.n_instances, 1, -1))
    return {name: ci.lower[k, 0] for name, ci in found.items()}


def top(d, k, row, count):
    """The ``count`` components of largest attribution, one by one."""
    scores = attributions(d.target, d.factors, row.expand(d.n_instances, 1, -1), d.config)[k, 0].detach()
    mask = torch.zeros(len(scores))
    mask[scores.argsort(descending=True, stable=True)[:count]] = 1
    return dict.fromkeys(d.sites, mask)


def single(d, k, row):
    return gates(d, k, row) if d.method == "spd" else top(d, k, row, 1)


@pytest.mark.parametrize("task", ["tms", "resid_mlp"])
@pytest.mark.parametrize("model", ["target", "decomposed"])
def test_attributions_equal_one_output_at_a_time(subjects, task, model):
    d = subjects(f"apd {task}").d
    config = d.config.model_copy(update={"attribution_model": model})
    d.config = config
    x = subjects(f"apd {task}").inputs("test", 23)
    expected = attributions(d.target, d.factors, x, config)
    torch.testing.assert_close(attribution_scores(d, x, rows=7), expected, rtol=1e-4, atol=1e-6)
    d.config = config.model_copy(update={"attribution_model": "target"})


@pytest.mark.parametrize("kind", KINDS)
def test_errors_by_number_of_features(subjects, kind):
    s = subjects(kind)
    d, found = s.d, label_errors(s)
    kinds = found["kinds"].tolist()
    data = s.data.__class__(**{**s.data.__dict__, "data_generation_type": "exactly_two_active"})
    x = data.batch(s.config.n_samples, s.draws("exactly_two_active"), n_instances=d.n_instances)[:, :]
    k, column = d.n_instances - 1, kinds.index("exactly 2 on")
    losses = {name: [] for name in ("target", "decomposition", "monosemantic")}
    assert x.shape[1] == 120
    neurons = d.sites["linear1" if "tms" in kind else "layers.0.mlp_in"].weight.shape[-1]
    for row in x[k]:
        masks = gates(d, k, row) if d.method == "spd" else top(d, k, row, 2)
        mono = labels(d, row, k).clone()
        mono[neurons:] = 0 if "tms" in kind else row[neurons:]
        outputs = (targets(d, k, row), by_hand(d, k, row, masks), mono)
        for name, out in zip(losses, outputs, strict=True):
            losses[name].append(float((out - labels(d, row, k)).square().mean()))
    for name, values in losses.items():
        assert found[name][k, column] == pytest.approx(np.mean(values), rel=1e-3, abs=1e-9), name


@pytest.mark.parametrize("kind", KINDS)
def test_losses_of_features_alone_in_training(subjects, kind):
    s = replace(subjects(kind), config=InterpretConfig(n_samples=600))
    d, found, k = s.d, losses_in_training(s), 0
    x = s.inputs("features in training")
    masks = own_masks(s, x)
    feature = 1
    errors, to_target, counts = [], [], []
    for b, row in enumerate(x[k]):
        if (row != 0).sum() != 1 or row[feature] == 0:
            continue
        own = {name: mask[k, b] for name, mask in masks.items()}
        errors.append(float((by_hand(d, k, row, own) - labels(d, row)).square().mean()))
        alone = by_hand(d, k, row, single(d, k, row))
        to_target.append(float((alone - targets(d, k, row)).square().mean()))
        counts.append(sum(float(v) > s.config.ci_threshold for v in next(iter(own.values()))))
    name = "causal_importance" if d.method == "spd" else "batch_topk"
    assert found[f"alone/{name}"][k, feature] == pytest.approx(np.mean(errors), rel=1e-3, abs=1e-9)
    assert found["to_target"][k, feature] == pytest.approx(np.mean(to_target), rel=1e-3, abs=1e-9)
    first = next(key for key in found if key.startswith("components/"))
    assert found[first][k, feature] == pytest.approx(np.mean(counts))


def test_top_k_of_the_batch_is_taken_over_batches_of_the_training_size(subjects):
    s = subjects("apd tms")
    d, x = s.d, s.inputs("test", 30)
    d.config = d.config.model_copy(update={"batch_size": 12, "topk": 0.5})
    masks = next(iter(own_masks(s, x).values()))
    scores = attributions(d.target, d.factors, x, d.config).detach()
    for start in (0, 12, 24):
        part = scores[:, start : start + 12]
        expected = topk_mask(part, 0.5, True).float()
        assert torch.equal(masks[:, start : start + 12], expected)
        assert expected.sum(dim=(1, 2)).tolist() == [int(0.5 * part.shape[1])] * d.n_instances


@pytest.mark.parametrize("kind", KINDS)
def test_sweeps_responses_and_curves(subjects, kind):
    s = subjects(kind)
    d, k, feature = s.d, 0, 2
    low, high = s.value_range
    eye = torch.eye(s.n_features)
    found = losses_in_sweep(s)
    name = "causal_importance" if d.method == "spd" else "topk_1"
    errors = []
    for value in torch.linspace(low, high, 64):
        row = value * eye[feature]
        errors.append(float((by_hand(d, k, row, single(d, k, row)) - labels(d, row)).square().mean()))
    assert found[f"sweep/{name}"][k, feature] == pytest.approx(np.mean(errors), rel=1e-3)
    responses, curves, row = feature_responses(s), response_curves(s), eye[feature]
    np.testing.assert_allclose(
        responses["one/chosen"][k, feature], by_hand(d, k, row, single(d, k, row)), atol=1e-5
    )
    np.testing.assert_allclose(responses["one/all_components"][k, feature], by_hand(d, k, row), atol=1e-5)
    spread = responses["spread_values"][feature] * row
    np.testing.assert_allclose(responses["spread/target"][k, feature], targets(d, k, spread), atol=1e-5)
    off = {site: torch.zeros(left.shape[1]) for site, (left, _) in d.factors.items()}
    np.testing.assert_allclose(responses["one/direct"][k, feature], by_hand(d, k, row, off), atol=1e-5)
    for g, value in list(enumerate(curves["curve_values"]))[::13]:
        out = targets(d, k, float(value) * row)[feature]
        assert curves["curve/target"][k, feature, g] == pytest.approx(float(out), abs=1e-5)
        assert curves["curve/label"][k, feature, g] == pytest.approx(
            float(labels(d, value * row)[feature]), abs=1e-6
        )


@pytest.mark.parametrize("kind", KINDS)
def test_scrubbed_losses_and_ablated_responses(subjects, kind):
    """The coins are drawn once more from the same stream; everything else is done one input at a time."""
    s = subjects(kind)
    d, k = s.d, 0
    x = s.inputs("scrubbing")
    chosen, draws = responsible(s, x), s.draws("scrubbing coins")
    coins = {}
    for name, mask in chosen.items():
        if d.method == "spd" or not coins:
            last = torch.rand(mask.shape, generator=draws) < 0.5
        coins[name] = last
    found = scrubbing(s)
    rows = [b for b in range(x.shape[1]) if x[k, b].any()][:6]
    for b in rows:
        wanted = targets(d, k, x[k, b])
        kept = {n: (coins[n][k, b] | m[k, b]).float() for n, m in chosen.items()}
        without = {n: (coins[n][k, b] & ~m[k, b]).float() for n, m in chosen.items()}
        for name, masks in (("scrubbed", kept), ("anti_scrubbed", without)):
            loss = (by_hand(d, k, x[k, b], masks) - wanted).square().mean()
            assert found[name][k, b] == pytest.approx(float(loss), rel=1e-3, abs=1e-8)
    row = torch.eye(s.n_features)[1]
    ablated, draws = ablated_responses(s, [1]), s.draws("ablations")
    outputs, coins = [], {}
    for name, mask in responsible(s, row.expand(d.n_instances, 1, -1)).items():
        if d.method == "spd" or not coins:
            tossed = torch.rand(d.n_instances, ABLATIONS, mask.shape[-1], generator=draws) < 0.5
        coins[name] = (tossed | mask)[k].float()
    for a in range(ABLATIONS):
        outputs.append(by_hand(d, k, row, {name: masks[a] for name, masks in coins.items()}).numpy())
    off = {site: torch.zeros(left.shape[1]) for site, (left, _) in d.factors.items()}
    direct = by_hand(d, k, row, off).numpy()
    np.testing.assert_allclose(ablated["scrubbed_mean"][k, 0], np.mean(outputs, axis=0) - direct, atol=1e-4)
    np.testing.assert_allclose(ablated["scrubbed_sd"][k, 0], np.std(outputs, axis=0, ddof=1), atol=1e-4)
    np.testing.assert_allclose(ablated["target"][k, 0], targets(d, k, row).numpy() - direct, atol=1e-5)


@pytest.mark.parametrize("kind", ["spd tms", "spd resid_mlp"])
def test_signal_to_noise_and_representation(subjects, kind):
    s = subjects(kind)
    d, k, found = s.d, s.d.n_instances - 1, signal_to_noise(s)
    assert ("opposite" in found) == ("resid" in kind)
    for name, second in (("equal", 1.0), ("opposite", -1.0)):
        for i, j in [(0, 1), (3, 2), (1, 1)] if name in found else ():
            row = torch.zeros(s.n_features)
            row[i], row[j] = 1.0, second
            out = targets(d, k, row)
            ratio = min(abs(out[i]), abs(out[j])) / out.std().clamp(min=1e-12)
            assert found[name][k, i, j] == pytest.approx(float(ratio), rel=1e-4)
    seen = representation(s, 0.75)
    row = 0.75 * torch.eye(s.n_features)[2]
    assert seen["target"][k, 2] == pytest.approx(float(targets(d, k, row)[2]), abs=1e-6)
    assert seen["decomposition"][k, 2] == pytest.approx(
        float(by_hand(d, k, row, gates(d, k, row))[2]), abs=1e-5
    )


@pytest.mark.parametrize("kind", ["spd resid_mlp", "apd tms"])
def test_activity_counts_and_correlations(subjects, kind):
    s = subjects(kind)
    found, x = activity(s), s.inputs("activity")
    masks = own_masks(s, x)
    site = "all" if d_is_apd(s) else next(iter(masks))
    mask = next(iter(masks.values()))[0]
    threshold = 0.5 if d_is_apd(s) else s.config.ci_threshold
    for c in range(mask.shape[1]):
        on = [float(v) > threshold for v in mask[:, c]]
        assert found[f"frequency/{site}"][0, c] == pytest.approx(np.mean(on))
    assert found[f"count/{site}"][0].tolist() == [sum(float(v) > threshold for v in row) for row in mask]
    values = torch.rand(30, 4)
    values[:, 2] = 0.25
    expected = np.corrcoef(values.numpy()[:, [0, 1, 3]], rowvar=False)
    measured = correlations(values)
    np.testing.assert_allclose(measured[np.ix_([0, 1, 3], [0, 1, 3])], expected, atol=1e-6)
    assert np.isnan(measured[2]).all() and np.isnan(measured[:, 2]).all()


def d_is_apd(s):
    return s.d.method == "apd"
