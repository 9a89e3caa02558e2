"""Activation examples and token lists against plain loops and networks whose components are known."""

import collections
import json
import math

import pytest
import torch
from known_mechanisms import Tokens, decomposition, token_decomposition
from torch import nn

from microtome.core.errors import MicrotomeError
from microtome.data.images import ArrayData
from microtome.decomposition.mechanisms.config import ExamplesConfig
from microtome.decomposition.mechanisms.examples import Examples, harvest
from microtome.decomposition.mechanisms.harvesting import Harvest
from microtome.decomposition.mechanisms.reading import Reading
from microtome.decomposition.mechanisms.reservoirs import EMPTY, Reservoirs, random_keys
from microtome.decomposition.mechanisms.token_sums import ByToken, TokenSums, by_lift, by_mean


def random_reading(b=6, t=9, c=4, vocabulary=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    importance = torch.rand(b, t, c, generator=g) * (torch.rand(b, t, c, generator=g) < 0.5)
    activation = torch.randn(b, t, c, generator=g)
    x = torch.randint(vocabulary, (1, b, t), generator=g)
    return Reading(x, torch.randn(b, t, vocabulary, generator=g), {"s": importance}, {"s": activation})


def cut(reading, size):
    for start in range(0, reading.x.shape[1], size):
        stop = start + size
        yield Reading(
            reading.x[:, start:stop],
            reading.output[start:stop],
            {s: v[start:stop] for s, v in reading.importance.items()},
            {s: v[start:stop] for s, v in reading.activation.items()},
        )


def collected(reading, size, **settings):
    config = ExamplesConfig(**{"min_count": 1, "tokens_before": 2, "tokens_after": 1, **settings})
    found = Harvest({"s": 4}, config, reading.x, reading.output.shape[-1])
    for part in cut(reading, size):
        found.add(part)
    return Examples(found)


def test_reservoir_keeps_the_smallest_keys_of_every_group():
    g = torch.Generator().manual_seed(0)
    group, key = torch.randint(5, (400,), generator=g), torch.randperm(400, generator=g)
    group[group == 3] = 2  # one that nothing is offered to
    held = Reservoirs(6, 7, {"item": torch.tensor(-1)})
    for part in torch.arange(400).split(33):
        held.add(group[part], key[part], lambda which, part=part: {"item": part[which]})
    for one in range(6):
        best = sorted((int(key[i]), i) for i in range(400) if group[i] == one)[:7]
        padded = best + [(EMPTY, -1)] * (7 - len(best))
        assert list(zip(held.keys[one].tolist(), held.fields["item"][one].tolist(), strict=True)) == padded


def test_keys_look_uniform_and_tell_every_number_apart():
    a, b = torch.meshgrid(torch.arange(60), torch.arange(60), indexing="ij")
    keys = random_keys(3, a.flatten(), b.flatten())
    assert len(keys.unique()) == 3600 and keys.min() >= 0
    share = keys.double() / 2**62
    assert share.mean() == pytest.approx(0.5, abs=4 / math.sqrt(12 * 3600))
    assert torch.corrcoef(torch.stack([share, share.roll(1)]))[0, 1].abs() < 4 / 60
    assert not torch.equal(keys, random_keys(4, a.flatten(), b.flatten()))


def test_examples_are_a_uniform_sample_of_a_stratum():
    importance = torch.zeros(40, 1, 1)
    importance[:20] = 0.9  # 20 places of one stratum
    x = torch.zeros(1, 40, 1, dtype=torch.long)
    reading, counts = (
        Reading(x, torch.zeros(40, 1, 2), {"s": importance}, {"s": importance}),
        collections.Counter(),
    )
    for seed in range(300):
        config = ExamplesConfig(seed=seed, strata=(0.5,), examples_per_stratum=5)
        found = Harvest({"s": 1}, config, x, 2)
        found.add(reading)
        counts.update(one["input"] for one in Examples(found).examples("s", 0))
    assert set(counts) == set(range(20))
    spread = sum((n - 75) ** 2 / 75 for n in counts.values())  # chi squared, 19 degrees of freedom
    assert spread < 50


def test_harvest_does_not_depend_on_the_batch_size():
    reading = random_reading()
    one, other = (list(collected(reading, size).components()) for size in (6, 1))
    assert [c["examples"] for c in one] == [c["examples"] for c in other]
    assert json.dumps(one)[:60] == json.dumps(other)[:60]
    for a, b in zip(one, other, strict=True):
        assert a["density"] == b["density"]
        assert [t["id"] for t in a["tokens_by_lift"]] == [t["id"] for t in b["tokens_by_lift"]]


def test_every_example_is_the_context_of_its_place():
    reading = random_reading(seed=1)
    found = collected(reading, 2, examples_per_stratum=3, strata=(0.1, 0.5))
    ids, importance = reading.x[0], reading.importance["s"]
    seen = 0
    for c in range(4):
        for one in found.examples("s", c):
            row, place = one["input"], one["position"]
            low, high = max(place - 2, 0), min(place + 2, 9)
            assert one["ids"] == ids[row, low:high].tolist() and one["focus"] == place - low
            assert one["importance"] == pytest.approx(importance[row, low:high, c].tolist(), abs=1e-4)
            assert one["activation"] == pytest.approx(float(reading.activation["s"][row, place, c]))
            level = float(importance[row, place, c])
            assert one["stratum"] < level and (one["stratum"] == 0.5 or level <= 0.5)
            seen += 1
    assert seen == 4 * 2 * 3


def test_token_lists_are_those_of_plain_loops():
    reading = random_reading(b=20, seed=2)
    found = collected(reading, 7, n_tokens=3, n_predictions=2, threshold=0.3)
    ids, importance = reading.x.flatten().tolist(), reading.importance["s"].flatten(0, 1)
    probability = torch.softmax(reading.output.flatten(0, 1), -1)
    top = probability.topk(2, -1)
    for record in found.components():
        c, n = record["component"], len(ids)
        fires = (importance[:, c] > 0.3).tolist()
        assert record["density"] == pytest.approx(sum(fires) / n)
        assert record["mean_importance"] == pytest.approx(float(importance[:, c].mean()))
        mean, lift = {}, {}
        for v in range(5):
            places = [p for p in range(n) if ids[p] == v]
            mean[v] = sum(float(importance[p, c]) for p in places) / len(places)
            together = sum(fires[p] for p in places)
            lift[v] = (together / n) / ((len(places) / n) * (sum(fires) / n))
        best = sorted(mean, key=lambda v: -mean[v])[:3]
        assert [t["id"] for t in record["tokens_by_importance"]] == best
        assert [t["value"] for t in record["tokens_by_importance"]] == pytest.approx([mean[v] for v in best])
        above = [v for v in sorted(lift, key=lambda v: -lift[v])[:3] if lift[v] > 1]
        assert [t["id"] for t in record["tokens_by_lift"]] == above
        assert [t["value"] for t in record["tokens_by_lift"]] == pytest.approx(
            [lift[v] for v in above], rel=1e-4
        )
        mass, said = [0.0] * 5, [0.0] * 5
        for p in range(n):
            for value, v in zip(top.values[p].tolist(), top.indices[p].tolist(), strict=True):
                said[v] += value
                mass[v] += value * fires[p]
        share = {v: mass[v] / sum(fires) for v in range(5)}
        for one in record["predicted_by_probability"]:
            assert one["value"] == pytest.approx(share[one["id"]], rel=1e-4)
        for one in record["predicted_by_lift"]:
            v = one["id"]
            expected = mass[v] * sum(said) / (said[v] * sum(mass))
            assert one["value"] == pytest.approx(expected, rel=1e-4)


def test_components_that_fire_together_are_listed_with_their_overlap():
    reading = random_reading(seed=3)
    fires = (reading.importance["s"].flatten(0, 1) > 0.1).numpy()
    records = {r["component"]: r for r in collected(reading, 4).components()}
    for c, record in records.items():
        for one in record["fires_with"]:
            j = int(one["name"].split(":")[1])
            both, either = (fires[:, c] & fires[:, j]).sum(), (fires[:, c] | fires[:, j]).sum()
            assert one["jaccard"] == pytest.approx(both / either)
            assert one["of_this"] == pytest.approx(both / fires[:, c].sum())
            assert one["of_other"] == pytest.approx(both / fires[:, j].sum())
            assert j != c


def test_rare_tokens_and_lifts_below_one_are_in_no_list():
    sums = TokenSums(3, 1)
    tokens = torch.tensor([0, 0, 0, 0, 1, 2, 2, 2])
    fires = torch.tensor([1, 1, 1, 0, 1, 0, 0, 1.0])[:, None]
    read = ByToken(tokens[:, None], torch.ones(8, 1))
    sums.add(read, fires, fires, read)
    seen = torch.tensor([4.0, 1, 3])
    assert by_lift(sums.fired, seen, 3, 2).ids.tolist() == [[0, -1, -1]]
    assert by_lift(sums.fired, seen, 3, 1).ids.tolist() == [[1, 0, -1]]
    assert by_mean(sums.importance, seen, 3, 2).ids.tolist() == [[0, 2, -1]]


def test_a_known_network_gives_its_tokens():
    d = token_decomposition()
    ids = torch.randint(6, (40, 12), generator=torch.Generator().manual_seed(0))
    found = harvest(d, data=Tokens(ids), n_batches=5, batch_size=8, min_count=2, n_predictions=6)
    records = list(found.components())
    assert [r["name"] for r in records] == [f"{s}:{c}" for s in ("up", "down") for c in range(6)]
    for record in records:
        token = record["component"]
        assert record["tokens_by_importance"][0]["id"] == token
        assert record["tokens_by_importance"][0]["value"] == pytest.approx(1.0)
        assert record["tokens_by_lift"][0]["id"] == token and len(record["tokens_by_lift"]) == 1
        assert record["predicted_by_probability"][0]["id"] == (token + 1) % 6
        assert record["predicted_by_lift"][0]["id"] == (token + 1) % 6
        assert record["density"] == pytest.approx(float((ids == token).float().mean()))
        assert all(one["ids"][one["focus"]] == token for one in record["examples"])
        other = "down" if record["site"] == "up" else "up"
        assert record["fires_with"][0]["name"] == f"{other}:{token}"
        assert record["fires_with"][0]["jaccard"] == pytest.approx(1.0)


def test_inputs_that_are_no_text_are_kept_whole():
    module = nn.Linear(4, 4, bias=False)
    module.weight.data = torch.eye(4)
    d = decomposition(nn.Sequential(module), {"0": (torch.eye(4), torch.eye(4))})
    rows = torch.eye(4).repeat(5, 1) * torch.linspace(0.4, 1, 20)[:, None]
    found = harvest(d, data=ArrayData(rows), n_batches=3, batch_size=40)
    for record in found.components():
        c = record["component"]
        assert record["examples"] and "tokens_by_lift" not in record
        for one in record["examples"]:
            assert one["values"][c] > 0.5 and sum(v != 0 for v in one["values"]) == 1
            assert one["values"][c] == pytest.approx(one["activation"])
        mean = torch.tensor(record["mean_input"])
        assert mean.argmax() == c and mean[c] > 0.5 and (mean > 0).sum() == 1


def test_what_cannot_be_is_told_in_one_line():
    with pytest.raises(MicrotomeError, match=r"sites='nowhere'.*up, down"):
        harvest(token_decomposition(), data=Tokens(torch.zeros(4, 3, dtype=torch.long)), sites=["nowhere"])
    with pytest.raises(MicrotomeError, match="instance=3"):
        harvest(token_decomposition(), instance=3)
    with pytest.raises(MicrotomeError, match="strata"):
        ExamplesConfig.from_mapping({"strata": [0.5, 0.2]})
    with pytest.raises(MicrotomeError, match="fewer sites"):
        TokenSums(10**6, 10**5)
