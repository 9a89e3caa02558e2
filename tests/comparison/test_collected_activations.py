"""Layers, norms and activations: what is kept is what the network computes, whatever order and batches."""

import numpy as np
import pytest
import torch
from small_comparisons import SmallNet, digit_images, layers_of, network, shuffled
from torch import nn

from microtome.comparison.activations import collect
from microtome.comparison.batch_norm import depends_on_batch, frozen, needs_calibration
from microtome.comparison.layers import TracedLayer, match_layers, trace_layers
from microtome.core.errors import MicrotomeError
from microtome.targets.image_network import ImageNetwork


def collected(net, images, folder, **settings):
    return collect(net, images, layers_of(net), "a", folder=folder, **settings)


def test_layers_in_order_with_their_nonlinearities():
    found = trace_layers(network(0), digit_images().inputs(slice(0, 4)))
    assert [(t.name, t.kind, t.shape, t.after) for t in found] == [
        ("conv1", "Conv2d", (8, 8, 8), "relu"),
        ("conv2", "Conv2d", (8, 4, 4), "(relu)"),
        ("fc1", "Linear", (32,), "(relu)"),
        ("fc2", "Linear", (10,), ""),
    ]


def layer(name, *shape):
    return TracedLayer(name, "Conv2d" if len(shape) == 3 else "Linear", shape)


def test_layers_of_other_names_go_together_by_order_and_shape():
    one = [layer("conv1", 6, 9, 9), layer("fc1", 32), layer("fc2", 32), layer("out", 2)]
    other = [layer("c", 6, 9, 9), layer("fc.0", 32), layer("fc.1", 32), layer("head", 2)]
    found = match_layers({"a": one, "b": other})
    assert [m.names["b"] for m in found.layers] == ["c", "fc.0", "fc.1", "head"]
    assert not found.remarks
    forced = match_layers({"a": one, "b": other}, {"fc1": "fc.1"})
    assert {m.label: m.names["b"] for m in forced.layers}["fc1"] == "fc.1"
    with pytest.raises(MicrotomeError, match=r"did you mean fc\.1"):
        match_layers({"a": one, "b": other}, {"fc1": "fc.11"})


def test_other_depth_is_matched_by_shape_and_told():
    one = [layer("c1", 8, 9, 9), layer("c2", 8, 5, 5), layer("out", 2)]
    other = [
        layer("d1", 8, 9, 9),
        layer("d2", 4, 7, 7),
        layer("d3", 8, 5, 5),
        layer("d4", 4, 3, 3),
        layer("o", 2),
    ]
    found = match_layers({"a": one, "b": other})
    assert [m.names["b"] for m in found.layers] == ["d1", "d3", "o"]
    assert any("relative depth" in remark for remark in found.remarks)
    assert any("d2, d4 of b" in remark for remark in found.remarks)


def test_frozen_norms_use_the_whole_data_set():
    images, net = digit_images(), network(1)
    assert needs_calibration(net.module) == ["bn1", "bn2"]
    whole = net.module(images.inputs())
    ready = frozen(net, images)
    assert ready.module(images.inputs(slice(0, 3))) == pytest.approx(whole[:3], abs=1e-4)
    assert needs_calibration(net.module) == ["bn1", "bn2"]  # the original is untouched
    assert depends_on_batch(net, images) and not depends_on_batch(ready, images)
    assert needs_calibration(frozen(ready, images, "batch").module) == ["bn1", "bn2"]
    assert frozen(net, images, "native") is net


@pytest.mark.parametrize("batch_size", [8, 64])
def test_order_and_batches_do_not_matter(tmp_path, batch_size):
    images, net = digit_images(), network(2, digest="")
    other = shuffled(images, 3)
    one = collected(net, images, tmp_path, batch_size=32)
    two = collected(net, other, tmp_path, batch_size=batch_size)
    order = [int(name) for name in other.names]
    for name in one.layers:
        for site in ("pre", "post"):
            assert two.rows(name, site) == pytest.approx(one.rows(name, site)[order], abs=1e-5)
            assert two.statistics(name, site).std == pytest.approx(one.statistics(name, site).std, abs=1e-5)
    first, second = one.positions("conv1"), two.positions("conv1")
    each = one.positions_per_image("conv1")
    stacked = first.rows.view(len(images), each, -1)[order]
    assert second.rows.view(len(images), each, -1) == pytest.approx(stacked, abs=1e-5)


def test_what_is_kept_is_what_the_modules_give(tmp_path):
    images, net = digit_images(50), network(3)
    ready = frozen(net, images)
    found = collected(net, images, tmp_path, pool=3)
    with torch.no_grad():
        pre = ready.module.conv1(images.inputs())
        post = torch.relu(ready.module.bn1(pre))
    for site, raw in (("pre", pre), ("post", post)):
        expected = nn.functional.adaptive_avg_pool2d(raw, 3).flatten(1)
        assert found.rows("conv1", site) == pytest.approx(expected.numpy(), abs=1e-5)
        assert found.channels("conv1", site) == pytest.approx(raw.mean((2, 3)).numpy(), abs=1e-5)
        statistics = found.statistics("conv1", site)
        assert statistics.mean == pytest.approx(raw.flatten(1).mean(0).numpy(), abs=1e-5)
        assert statistics.std == pytest.approx(raw.flatten(1).std(0, correction=0).numpy(), abs=1e-4)
        assert statistics.zeros == pytest.approx((raw == 0).float().mean().item())
        assert statistics.overall_mean == pytest.approx(raw.mean().item(), abs=1e-5)
        assert statistics.overall_std == pytest.approx(raw.std(correction=0).item(), abs=1e-4)
        assert (statistics.smallest, statistics.largest) == pytest.approx(
            (raw.min().item(), raw.max().item())
        )
    places = found.positions("conv1", "post", max_rows=40, generator=torch.Generator().manual_seed(0))
    for row, image in zip(places.rows, places.images, strict=True):
        vectors = post[image].flatten(1).T
        assert torch.isclose(vectors, row, atol=1e-5).all(1).any()
    assert not found.has_post("fc2")
    assert found.rows("fc2", "post") == pytest.approx(found.rows("fc2", "pre"))


class Tokens(nn.Module):
    """Sequences [B, T, d], an in-place nonlinearity, and a layer that runs twice."""

    def __init__(self):
        super().__init__()
        self.embed, self.twice, self.act = nn.Conv2d(1, 6, 2, 2), nn.Linear(6, 6), nn.GELU()
        self.up, self.relu = nn.Linear(6, 12), nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = self.twice(self.act(self.twice(x)))
        return self.relu(self.up(x)).mean(1)


def test_sequences_and_values_written_over(tmp_path):
    images = digit_images(20)
    net = ImageNetwork(Tokens().eval().requires_grad_(False), "tokens")
    found = collected(net, images, tmp_path, pool=4)
    with torch.no_grad():
        tokens = net.module.embed(images.inputs()).flatten(2).transpose(1, 2)
        first = net.module.twice(tokens)
        up = net.module.up(net.module.twice(net.module.act(first)))
    assert found.channels("twice", "pre") == pytest.approx(first.mean(1).numpy(), abs=1e-5)
    assert found.channels("up", "pre") == pytest.approx(up.mean(1).numpy(), abs=1e-5)
    assert found.channels("up", "post") == pytest.approx(up.relu().mean(1).numpy(), abs=1e-5)
    pieces = up.view(20, 4, 4, 12).mean(2).transpose(1, 2).flatten(1)
    assert found.rows("up", "pre") == pytest.approx(pieces.numpy(), abs=1e-5)


def test_found_again_by_digests(tmp_path):
    images, said = digit_images(), []
    one = collected(network(4), images, tmp_path, progress=said.append)
    two = collected(network(4), images, tmp_path, progress=said.append, batch_size=8)
    assert one.folder == two.folder and len(said) == 1
    other = collected(network(5), images, tmp_path, progress=said.append)
    assert other.folder != one.folder and len(said) == 2
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_without_layers_it_is_told():
    with pytest.raises(MicrotomeError, match="no convolution"):
        trace_layers(ImageNetwork(nn.Flatten(), "flat"), digit_images().inputs(slice(0, 2)))
    with pytest.raises(MicrotomeError, match="no activations of it"):
        raise_for_missing()


def raise_for_missing():
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        collected(network(6, SmallNet), digit_images(20), Path(folder)).rows("conv9")


def test_statistics_survive_large_offsets(tmp_path):
    net = network(7)
    net.module.fc2.bias += 1000.0
    found = collected(net, digit_images(), tmp_path).statistics("fc2", "pre")
    rows = np.asarray(collected(net, digit_images(), tmp_path).rows("fc2", "pre"))
    assert found.std == pytest.approx(rows.astype(np.float64).std(0), rel=0.05)
