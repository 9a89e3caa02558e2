"""The batched sweep against one row at a time, and against what was planted."""

import tracemalloc

import numpy as np
import pytest
import torch
from torch import nn

from microtome.core.errors import CannotLoad, MicrotomeError
from microtome.decomposition.config import config_from_mapping
from microtome.decomposition.result import Decomposition
from microtome.magnitude import sweep as sweep_module
from microtome.magnitude.forward import after, n_inputs
from microtome.magnitude.result import GATE_PANELS
from microtome.magnitude.sweep import compute, magnitude_range
from microtome.targets.module_target import ModuleTarget

EVERY_KIND = ["spd_tms", "sharp_tms", "spd_resid_mlp", "spd_module", "apd_tms"]


def one_row(decomposition, feature, magnitude):
    """The network's own answer for one input of one feature, and what each site saw and said."""
    target = decomposition.target
    dtype = next(iter(decomposition.sites.values())).weight.dtype
    x = torch.zeros(target.n_instances, 1, n_inputs(decomposition), dtype=dtype)
    x[..., feature] = magnitude
    seen = {}

    def site(name, inputs):
        seen[name] = (inputs, target.sites()[name].apply(inputs))
        return seen[name][1]

    return x, target(x, site), seen


@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("chunk_bytes", [1, 20_000, 1 << 28])
def test_equals_a_loop_of_single_rows(kind, two_sided, chunk_bytes, request):
    d = request.getfixturevalue(kind)
    sweep = compute(d, [0, 3], 7, 1.5, two_sided, chunk_bytes=chunk_bytes)
    assert sweep.magnitudes[0] == (-1.5 if two_sided else 0.0)
    compared = set()
    for f, feature in enumerate((0, 3)):
        for s, magnitude in enumerate(np.linspace(-1.5 if two_sided else 0.0, 1.5, 7)):
            x, output, seen = one_row(d, feature, magnitude)
            expected = {"outputs": output}
            for name, (inputs, pre) in seen.items():
                expected[f"pre/{name}"] = pre
                if d.method == "apd":
                    parts = d.component_weights(name)
                    written = torch.einsum("kbi,kcio->kbco", inputs, parts)
                    expected[f"activations/{name}"] = written.norm(dim=-1)
            for name, ci in (d.causal_importances(x) or {}).items():
                expected |= {f"gate_inputs/{name}": ci.inner, f"gate_outputs/{name}": ci.gate}
                expected |= {f"lower/{name}": ci.lower, f"upper/{name}": ci.upper}
            for name, values in sweep.arrays().items():
                if name in expected:
                    compared.add(name)
                    np.testing.assert_allclose(
                        values[:, f, s], expected[name][:, 0].numpy(), atol=1e-6, rtol=1e-6
                    )
    assert {n for n in sweep.arrays() if not n.startswith("post/")} - {"magnitudes", "features"} == compared


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_what_differs_from_the_loop_is_rounding(kind, request):
    """With twice the digits there is nothing left of it."""
    d = request.getfixturevalue(kind)
    parameters = {name: tensor.double() for name, tensor in d.parameters.items()}
    double = Decomposition(d.config, d.target.double(), parameters, sigmoid_type=d.sigmoid_type)
    sweep = compute(double, [3], 5, 1.5)
    for s, magnitude in enumerate(sweep.magnitudes):
        x, output, _ = one_row(double, 3, magnitude)
        np.testing.assert_allclose(sweep.outputs[:, 0, s], output[:, 0].numpy(), atol=1e-13)
        for site, ci in (double.causal_importances(x) or {}).items():
            for values, expected in ((sweep.gate_outputs, ci.gate), (sweep.lower, ci.lower)):
                np.testing.assert_allclose(values[site][:, 0, s], expected[:, 0].numpy(), atol=1e-12)


def test_the_gate_is_the_one_written_down(spd_resid_mlp, sharp_tms):
    """Not through the package's own gates: ``g = 2 h - 1/2``, and a gelu."""
    sweep = compute(spd_resid_mlp, [2], n_steps=9)
    for site, inner in sweep.gate_inputs.items():
        gate = 2.0 * inner - 0.5
        np.testing.assert_allclose(sweep.gate_outputs[site], gate, atol=1e-6)
        np.testing.assert_allclose(
            sweep.lower[site], np.where(gate > 0, np.minimum(gate, 1), 0.01 * gate), atol=1e-6
        )
        np.testing.assert_allclose(
            sweep.upper[site], np.where(gate < 1, np.maximum(gate, 0), 1 + 0.01 * (gate - 1)), atol=1e-6
        )
    sharp = compute(sharp_tms, [2], n_steps=9)
    h = torch.as_tensor(sharp.gate_inputs["linear1"]).double()
    np.testing.assert_allclose(sharp.gate_outputs["linear1"], nn.functional.gelu(8 * (h - 0.5)), atol=1e-5)


def test_one_forward_pass_serves_all_features_and_magnitudes(spd_tms, monkeypatch):
    passes = []
    record = sweep_module.Recorder.__call__
    monkeypatch.setattr(
        sweep_module.Recorder, "__call__", lambda self, x: passes.append(x.shape) or record(self, x)
    )
    compute(spd_tms, range(5), n_steps=40)
    assert passes == [(2, 200, 5)]
    passes.clear()
    compute(spd_tms, range(5), n_steps=40, chunk_bytes=60_000)
    assert len(passes) > 1 and sum(shape[1] for shape in passes) == 200


def test_planted_component_becomes_important_where_its_gate_says(spd_resid_mlp):
    sweep = compute(spd_resid_mlp, [2], n_steps=201, max_magnitude=2.0)
    importance = sweep.lower["layers.0.mlp_in"][0, 0]
    assert importance.max(axis=0).argmax() == 2
    above = sweep.magnitudes[importance[:, 2] > 0]
    assert above[0] == pytest.approx(0.25, abs=0.011)
    full = sweep.magnitudes[importance[:, 2] >= 1]
    assert full[0] == pytest.approx(0.75, abs=0.011)
    assert (np.delete(importance, 2, axis=1) <= 0).all()


def test_neurons_before_and_after_the_nonlinearity(spd_resid_mlp, spd_tms, spd_module):
    sweep = compute(spd_resid_mlp, [1], n_steps=5, max_magnitude=2.0)
    pre, post = sweep.pre["layers.0.mlp_in"][0, 0], sweep.post["layers.0.mlp_in"][0, 0]
    np.testing.assert_allclose(pre[:, 1], sweep.magnitudes - 1.0, atol=1e-6)
    np.testing.assert_allclose(post, np.maximum(pre, 0.0), atol=1e-6)
    tms = compute(spd_tms, [1], n_steps=5)
    np.testing.assert_array_equal(tms.pre["linear1"], tms.post["linear1"])
    own = compute(spd_module, [1], n_steps=5)
    # The next site's input is no function of these neurons alone, so none is made up.
    np.testing.assert_array_equal(own.pre["left"], own.post["left"])
    np.testing.assert_array_equal(own.pre["right"], own.post["right"])


@pytest.mark.parametrize("name", ["relu", "gelu", "tanh", "silu", "softplus"])
def test_nonlinearities_are_recognised_by_what_they_do(name):
    apply = {"tanh": torch.tanh, "silu": nn.functional.silu}.get(name) or getattr(nn.functional, name)
    pre = 3 * torch.randn(2, 50, 7)
    torch.testing.assert_close(after(pre, apply(pre)), apply(pre))
    assert after(pre, apply(pre) + 0.1 * torch.randn(2, 50, 7)) is pre
    assert after(pre, torch.randn(2, 50, 8)) is pre


def test_which_sites_have_neurons(spd_resid_mlp, spd_tms, spd_module):
    assert list(compute(spd_resid_mlp, [0], 2).pre) == ["layers.0.mlp_in", "layers.1.mlp_in"]
    assert list(compute(spd_tms, [0], 2).pre) == ["linear1"]
    own = compute(spd_module, [0], 2)
    assert set(own.pre) == {"left", "right"}
    assert own.sites[-1] == "head"  # in the order in which they run, not of definition


def test_only_some_sites_decomposed(spd_resid_mlp):
    """Neurons of every layer are shown, gates of those that have some."""
    one = Decomposition(
        spd_resid_mlp.config, spd_resid_mlp.target, spd_resid_mlp.parameters, sites=["layers.0.mlp_in"]
    )
    sweep = compute(one, [0], n_steps=3)
    assert list(sweep.lower) == ["layers.0.mlp_in"]
    assert sweep.sites == ("layers.0.mlp_in", "layers.1.mlp_in")


def test_instances_are_kept_apart(spd_tms):
    hidden = compute(spd_tms, [0], n_steps=3).pre["linear1"]
    np.testing.assert_allclose(hidden[1], 0.5 * hidden[0], atol=1e-7)


def test_without_gates_the_gate_panels_are_named_as_left_out(apd_tms, spd_tms):
    sweep = compute(apd_tms, [0], n_steps=2)
    assert sweep.left_out == GATE_PANELS and not sweep.lower
    assert compute(spd_tms, [0], n_steps=2).left_out == ()
    # Component c of linear1 is feature c, a unit vector of the pentagon.
    np.testing.assert_allclose(sweep.activations["linear1"][0, 0, 1], [2, 0, 0, 0, 0], atol=1e-6)


@pytest.mark.parametrize("feature", [5, -1])
def test_a_feature_that_is_not_there_is_refused_with_the_range(spd_tms, feature):
    with pytest.raises(MicrotomeError, match=rf"feature_idx={feature}.*5 inputs.*0 to 4"):
        compute(spd_tms, [feature])


def test_range_includes_both_ends_and_needs_two_steps():
    assert magnitude_range(3, 2.0).tolist() == [0.0, 1.0, 2.0]
    assert magnitude_range(3, 2.0, two_sided=True).tolist() == [-2.0, 0.0, 2.0]
    with pytest.raises(MicrotomeError, match="n_steps=1"):
        magnitude_range(1, 2.0)


def test_results_beyond_the_memory_are_refused_with_both_sizes(spd_tms, monkeypatch):
    monkeypatch.setattr(sweep_module, "free_memory", lambda: 100_000)
    with pytest.raises(
        MicrotomeError, match=r"n_steps=4000.*MB of results.*0\.1 MB of memory.*lower n_steps"
    ):
        compute(spd_tms, [0], n_steps=4000, chunk_bytes=10_000)


def test_too_many_steps_are_refused_before_their_magnitudes_are_made(spd_tms, monkeypatch):
    monkeypatch.setattr(sweep_module, "free_memory", lambda: 100_000)
    tracemalloc.start()
    with pytest.raises(MicrotomeError, match="n_steps=10000000"):
        compute(spd_tms, [0], n_steps=10_000_000, chunk_bytes=10_000)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000  # the magnitudes alone are 80 MB
    tracemalloc.stop()


@pytest.mark.parametrize("two_sided", [False, True])
def test_pieces_hold_the_magnitudes_that_are_reported(spd_tms, two_sided):
    span = (-0.7 if two_sided else 0.0, 0.7)
    rows = sweep_module._Rows(spd_tms, 5, np.array([3, 1]), 101, span)
    made = torch.cat([rows.piece(start, min(start + 37, 202)) for start in range(0, 202, 37)], dim=1)[0]
    expected = torch.as_tensor(magnitude_range(101, 0.7, two_sided)).to(made.dtype)
    assert torch.equal(made[:101, 3], expected) and torch.equal(made[101:, 1], expected)


class Images(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x.reshape(len(x), 2, 8, 2).flatten(2))


@pytest.mark.parametrize("data", [{"kind": "arrays", "shape": [9, 4, 4]}, None])
def test_networks_that_take_no_vectors_are_one_line(data):
    target = ModuleTarget(Images())
    parameters = {"components.inner.V": torch.randn(1, 16, 3), "components.inner.U": torch.randn(1, 3, 3)}
    for part, shape in {"w_in": (1, 3, 1), "b_in": (1, 3, 0), "w_out": (1, 3, 0), "b_out": (1, 3)}.items():
        parameters[f"gates.inner.{part}"] = torch.ones(shape)
    config = config_from_mapping({"method": "spd", "C": 3, "task_config": {"task_name": "target_data"}})
    with pytest.raises(CannotLoad, match=r"model_path: .*a magnitude sweep needs") as told:
        compute(Decomposition(config, target, parameters, data), [0], n_steps=3)
    assert "\n" not in str(told.value)
