"""The batched sweep against one row at a time, and against what was planted."""

import numpy as np
import pytest
import torch

from microtome.core.errors import MicrotomeError
from microtome.magnitude.sweep import GATE_PANELS, compute, magnitude_range, n_inputs, shows_neurons


def one_row(decomposition, feature, magnitude):
    """Everything the sweep reports, for one input of one feature, by hand where the network allows."""
    target = decomposition.target
    x = torch.zeros(target.n_instances, 1, n_inputs(target))
    x[..., feature] = magnitude
    seen = {}

    def site(name, inputs):
        seen[name] = (inputs, target.sites()[name].apply(inputs))
        return seen[name][1]

    return target(x, site), seen


@pytest.mark.parametrize("kind", ["spd_tms", "spd_resid_mlp", "apd_tms"])
@pytest.mark.parametrize("two_sided", [False, True])
def test_equals_a_loop_of_single_rows(kind, two_sided, request):
    decomposition = request.getfixturevalue(kind)
    sweep = compute(decomposition, [0, 3], n_steps=7, max_magnitude=1.5, two_sided=two_sided)
    assert sweep.magnitudes[0] == (-1.5 if two_sided else 0.0)
    for f, feature in enumerate((0, 3)):
        for s, magnitude in enumerate(np.linspace(-1.5 if two_sided else 0.0, 1.5, 7)):
            output, seen = one_row(decomposition, feature, magnitude)
            np.testing.assert_allclose(sweep.outputs[:, f, s], output[:, 0].numpy(), atol=1e-6)
            for name, (inputs, pre) in seen.items():
                np.testing.assert_allclose(sweep.pre[name][:, f, s], pre[:, 0].numpy(), atol=1e-6)
                if name in sweep.lower:
                    left = decomposition.factors[name][0][..., 0]
                    inner = torch.einsum("kbi,kci->kbc", inputs, left)[:, 0]
                    gate = 2.0 * inner - 0.5
                    np.testing.assert_allclose(sweep.gate_inputs[name][:, f, s], inner.numpy(), atol=1e-6)
                    np.testing.assert_allclose(sweep.gate_outputs[name][:, f, s], gate.numpy(), atol=1e-6)
                    lower = torch.where(gate > 0, gate.clamp(max=1), 0.01 * gate)
                    np.testing.assert_allclose(sweep.lower[name][:, f, s], lower.numpy(), atol=1e-6)


def test_planted_component_becomes_important_where_its_gate_says(spd_resid_mlp):
    sweep = compute(spd_resid_mlp, [2], n_steps=201, max_magnitude=2.0)
    importance = sweep.lower["layers.0.mlp_in"][0, 0]
    assert importance.max(axis=0).argmax() == 2
    above = sweep.magnitudes[importance[:, 2] > 0]
    assert above[0] == pytest.approx(0.25, abs=0.011)
    full = sweep.magnitudes[importance[:, 2] >= 1]
    assert full[0] == pytest.approx(0.75, abs=0.011)
    assert (np.delete(importance, 2, axis=1) <= 0).all()


def test_neurons_before_and_after_the_nonlinearity(spd_resid_mlp, spd_tms):
    sweep = compute(spd_resid_mlp, [1], n_steps=5, max_magnitude=2.0)
    pre, post = sweep.pre["layers.0.mlp_in"][0, 0], sweep.post["layers.0.mlp_in"][0, 0]
    np.testing.assert_allclose(pre[:, 1], sweep.magnitudes - 1.0, atol=1e-6)
    np.testing.assert_allclose(post, np.maximum(pre, 0.0), atol=1e-6)
    tms = compute(spd_tms, [1], n_steps=5)
    np.testing.assert_array_equal(tms.pre["linear1"], tms.post["linear1"])
    np.testing.assert_array_equal(tms.post["linear2"], tms.outputs)


def test_instances_are_kept_apart(spd_tms):
    hidden = compute(spd_tms, [0], n_steps=3).pre["linear1"]
    np.testing.assert_allclose(hidden[1], 0.5 * hidden[0], atol=1e-7)


def test_without_gates_the_gate_panels_are_named_as_left_out(apd_tms, spd_tms):
    sweep = compute(apd_tms, [0], n_steps=2)
    assert sweep.left_out == GATE_PANELS and not sweep.lower
    assert compute(spd_tms, [0], n_steps=2).left_out == ()
    assert {"magnitudes", "features", "outputs", "pre/linear1", "post/linear1"} <= set(sweep.arrays())


@pytest.mark.parametrize("feature", [5, -1])
def test_a_feature_that_is_not_there_is_refused_with_the_range(spd_tms, feature):
    with pytest.raises(MicrotomeError, match=rf"feature_idx={feature}.*5 inputs.*0 to 4"):
        compute(spd_tms, [feature])


def test_range_includes_both_ends_and_needs_two_steps():
    assert magnitude_range(3, 2.0).tolist() == [0.0, 1.0, 2.0]
    assert magnitude_range(3, 2.0, two_sided=True).tolist() == [-2.0, 0.0, 2.0]
    with pytest.raises(MicrotomeError, match="n_steps=1"):
        magnitude_range(1, 2.0)


def test_which_sites_have_neurons():
    sites = ["layers.0.mlp_in", "layers.0.mlp_out", "layers.1.mlp_in", "layers.1.mlp_out"]
    assert [shows_neurons(s, sites) for s in sites] == [True, False, True, False]
    assert [shows_neurons(s, ["linear1", "linear2"]) for s in ("linear1", "linear2")] == [True, False]
