"""A decomposition's instance as a plain module, against the decomposition and against plain equations."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import microtome
from microtome.core.errors import CannotLoad, MicrotomeError
from microtome.data.sparse_features import SparseFeatures
from microtome.decomposition import decompose as decompose_module
from microtome.decomposition.component_model import (
    ComponentModel,
    OutputWithCache,
    SPDRunInfo,
    make_mask_infos,
)
from microtome.decomposition.result import Decomposition
from microtome.targets.config import TMSModelConfig
from microtome.targets.tms import TMS

K, N, H, C = 3, 6, 3, 7
SHORT = {"steps": 4, "batch_size": 32, "print_freq": 2, "C": C, "lr": 1e-2, "image_on_first_step": False}


@pytest.fixture(scope="module", autouse=True)
def no_pictures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decompose_module, "draw_all", lambda run: [])
        yield


def target() -> TMS:
    made = TMS(TMSModelConfig(n_features=N, n_hidden=H, n_instances=K, n_hidden_layers=1)).reset(3)
    nn.init.normal_(made.b_final, std=0.1)
    return made


@pytest.fixture(scope="module")
def spd(tmp_path_factory: pytest.TempPathFactory) -> Decomposition:
    out = tmp_path_factory.mktemp("spd") / "run"
    data = SparseFeatures(K, N, 0.5)
    return microtome.decompose(target(), data=data, out_dir=out, n_ci_mlp_neurons=5, save_freq=2, **SHORT)


@pytest.fixture(scope="module")
def apd(tmp_path_factory: pytest.TempPathFactory) -> Decomposition:
    out = tmp_path_factory.mktemp("apd") / "run"
    data = SparseFeatures(K, N, 0.5)
    return microtome.decompose(target(), "apd", data=data, out_dir=out, topk=1, m=2, **SHORT)


@pytest.fixture()
def x() -> Tensor:
    return torch.rand(9, N, generator=torch.Generator().manual_seed(0))


def run_path(d: Decomposition) -> Path:
    assert d.run is not None
    return d.run.path


def for_all(x: Tensor) -> Tensor:
    return x.expand(K, *x.shape)


@pytest.mark.parametrize("instance", [0, 2])
def test_without_masks_it_is_the_target(spd: Decomposition, x: Tensor, instance: int) -> None:
    model = ComponentModel.from_pretrained(run_path(spd), instance)
    torch.testing.assert_close(model(x), spd.target(for_all(x))[instance])
    torch.testing.assert_close(model.target_model(x), model(x))
    assert model.target_module_paths == ["linear1", "hidden_layers.0", "linear2"]
    assert model.module_to_c == dict.fromkeys(model.target_module_paths, C)


def test_components_in_the_orientation_of_linear(spd: Decomposition, x: Tensor) -> None:
    model = ComponentModel(spd, 1)
    for name, layer in model.components.items():
        assert layer.weight.shape == spd.sites[name].weight[1].T.shape
        torch.testing.assert_close(layer.weight, spd.component_weights(name)[1].sum(0).T)
        torch.testing.assert_close(layer.component_weights(), spd.component_weights(name)[1].mT)
        torch.testing.assert_close(model.calc_weight_deltas()[name], layer.target_weight - layer.weight)
        torch.testing.assert_close(layer.target_weight, spd.sites[name].weight[1].T)
    first = model.components["linear1"]
    assert first.V.shape == (N, C) and first.U.shape == (C, H)
    torch.testing.assert_close(first.get_component_acts(x), x @ first.V)
    torch.testing.assert_close(first.get_inner_acts(x), x @ first.V)


def test_causal_importances_equal_the_decompositions(spd: Decomposition, x: Tensor) -> None:
    model = ComponentModel(spd, 2)
    output, cache = model(x, cache_type="input")
    torch.testing.assert_close(output, model(x))
    found = model.calc_causal_importances(cache)
    expected = spd.causal_importances(for_all(x))
    assert expected is not None
    for name, ci in expected.items():
        torch.testing.assert_close(found.lower_leaky[name], ci.lower[2])
        torch.testing.assert_close(found.upper_leaky[name], ci.upper[2])
        torch.testing.assert_close(found.pre_sigmoid[name], ci.gate[2])


def test_the_gate_by_hand(spd: Decomposition, x: Tensor) -> None:
    """``g = w_out . gelu(w_in h + b_in) + b_out`` for one component, with scipy's own gelu."""
    from scipy.special import erf

    model = ComponentModel(spd)
    h = model.components["linear1"].get_component_acts(x)[:, 4].numpy().astype(np.float64)
    w = {n: p[4].numpy().astype(np.float64) for n, p in model.ci_fns["linear1"].named_parameters()}
    hidden = h[:, None] * w["w_in"] + w["b_in"]
    gelu = hidden * 0.5 * (1 + erf(hidden / np.sqrt(2)))
    expected = gelu @ w["w_out"] + w["b_out"]
    gate = model.calc_causal_importances(model(x, cache_type="input").cache).pre_sigmoid["linear1"]
    np.testing.assert_allclose(gate[:, 4].numpy(), expected, rtol=1e-4, atol=1e-5)


def test_masks_choose_components(spd: Decomposition, x: Tensor) -> None:
    model = ComponentModel(spd, 1)
    masks = {name: torch.rand(len(x), C) for name in model.target_module_paths}
    out = model(x, mask_infos=make_mask_infos(masks))
    expected = spd.forward(for_all(x), {name: for_all(mask) for name, mask in masks.items()})[1]
    torch.testing.assert_close(out, expected)


def test_a_site_without_mask_keeps_the_targets_weight(spd: Decomposition, x: Tensor) -> None:
    model = ComponentModel(spd)
    out = model(x, mask_infos=make_mask_infos({"linear1": torch.zeros(len(x), C)}))
    # linear1 gives nothing, and the other sites are as trained: only the bias is left.
    torch.testing.assert_close(out, torch.relu(spd.target.b_final[0]).expand_as(out))  # pyright: ignore


def test_the_delta_makes_the_sum_whole_and_routing_chooses(spd: Decomposition, x: Tensor) -> None:
    model = ComponentModel(spd)
    ones = {name: torch.ones(len(x), C) for name in model.target_module_paths}
    deltas = {name: (delta, torch.ones(len(x))) for name, delta in model.calc_weight_deltas().items()}
    whole = model(x, mask_infos=make_mask_infos(ones, weight_deltas_and_masks=deltas))
    torch.testing.assert_close(whole, model(x), rtol=1e-4, atol=1e-5)
    route = torch.arange(len(x)) % 2 == 0
    zeros = {"linear1": torch.zeros(len(x), C)}
    mixed = model(x, mask_infos=make_mask_infos(zeros, {"linear1": route}))
    torch.testing.assert_close(mixed[~route], model(x)[~route])
    torch.testing.assert_close(mixed[route], model(x, mask_infos=make_mask_infos(zeros))[route])


def test_differentiable_in_its_input_and_frozen(spd: Decomposition) -> None:
    model = ComponentModel(spd).double()
    x = torch.rand(4, N, dtype=torch.float64).requires_grad_()

    def masked(x: Tensor) -> Tensor:
        importances = model.calc_causal_importances(model(x, cache_type="input").cache)
        return model(x, mask_infos=make_mask_infos(importances.upper_leaky))

    assert torch.autograd.gradcheck(masked, x)
    assert not any(p.requires_grad for p in model.parameters())
    cut = model.calc_causal_importances(model(x, cache_type="input").cache, detach_inputs=True)
    assert not cut.lower_leaky["linear1"].requires_grad


def test_the_older_calls(spd: Decomposition, x: Tensor) -> None:
    model = ComponentModel(spd)
    old = model(x, mode="input_cache", module_names=["linear2"])
    assert isinstance(old, OutputWithCache) and list(old.cache) == ["linear2"]
    torch.testing.assert_close(old.cache["linear2"], model(x, cache_type="input").cache["linear2"])
    acts = model(x, cache_type="component_acts").cache["linear1"]
    torch.testing.assert_close(acts, model.components["linear1"].get_component_acts(x))
    infos = make_mask_infos({"linear1": torch.rand(len(x), C)})
    torch.testing.assert_close(model(x, mode="components", mask_infos=infos), model(x, mask_infos=infos))


def test_binomial_sampling_stays_within_its_jitter(spd: Decomposition, x: Tensor) -> None:
    model = ComponentModel(spd)
    inputs = model(x, cache_type="input").cache
    plain, jittered = (model.calc_causal_importances(inputs, s) for s in ("continuous", "binomial"))
    gate = plain.pre_sigmoid["linear1"]
    moved = jittered.lower_leaky["linear1"] - plain.lower_leaky["linear1"]
    assert moved.abs().max() > 0
    assert (moved.abs() <= 0.05 * (gate.abs() + 1) + 1e-6).all()


def test_a_model_file_is_loaded_at_its_own_step(spd: Decomposition) -> None:
    early = ComponentModel.from_run_info(SPDRunInfo.from_path(run_path(spd) / "model_2.pth"))
    late = ComponentModel.from_run_info(SPDRunInfo.from_path(run_path(spd)))
    assert SPDRunInfo.from_path(run_path(spd)).checkpoint_path.name == "step_4.safetensors"
    assert SPDRunInfo.from_path(run_path(spd)).config == spd.config
    assert not torch.equal(early.components["linear1"].V, late.components["linear1"].V)
    torch.testing.assert_close(early.target_model.target.linear1.weight, target().linear1.weight[:1])
    final = ComponentModel.from_pretrained(run_path(spd) / "model_4.pth")
    assert torch.equal(final.components["linear2"].U, late.components["linear2"].U)


def test_apd_components_have_rank_m_and_no_gates(apd: Decomposition, x: Tensor) -> None:
    model = ComponentModel.from_pretrained(run_path(apd) / "spd_model_4.pth", 1)
    layer = model.components["linear1"]
    assert layer.V.shape == (N, C, 2) and layer.U.shape == (C, 2, H)
    torch.testing.assert_close(layer.weight, apd.component_weights("linear1")[1].sum(0).T)
    mask = (torch.rand(len(x), C) > 0.5).float()
    names = model.target_module_paths
    out = model(x, mask_infos=make_mask_infos(dict.fromkeys(names, mask)))
    expected = apd.forward(for_all(x), {name: for_all(mask) for name in names})[1]
    torch.testing.assert_close(out, expected)
    with pytest.raises(MicrotomeError, match="no gates, so no causal importances"):
        model.calc_causal_importances({"linear1": x})


def test_the_apd_model_file_has_the_original_layout(apd: Decomposition) -> None:
    state = torch.load(run_path(apd) / "spd_model_4.pth", weights_only=True)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert shapes["b_final"] == (K, N)
    assert shapes["linear1.A"] == (K, C, N, 2)
    assert shapes["linear1.B"] == (K, C, 2, H)
    assert "linear1.weight" not in shapes and "linear2.A" not in shapes


class Classifier(nn.Module):
    """Not importable with arguments from a description: needs its width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(N, width)
        self.head = nn.Linear(width, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.inner(x)))


def test_a_module_of_ones_own(tmp_path: Path, x: Tensor) -> None:
    module = Classifier(5)
    result = microtome.decompose(
        module, data=x, sites=["inner"], out_dir=tmp_path / "run", output_loss_type="kl", **SHORT
    )
    with pytest.raises(CannotLoad, match="needs arguments"):
        ComponentModel.from_pretrained(tmp_path / "run")
    model = ComponentModel.from_pretrained(tmp_path / "run", module=Classifier(5))
    torch.testing.assert_close(model(x), module(x))
    assert list(model.components) == list(result.sites) == ["inner"]
    assert model.components["inner"].bias is not None
    infos = make_mask_infos({"inner": torch.zeros(len(x), C)})
    torch.testing.assert_close(
        model(x, mask_infos=infos), module.head(torch.tanh(module.inner.bias)).expand(9, 4)
    )


def test_mistakes_are_told_in_one_line(spd: Decomposition, x: Tensor, tmp_path: Path) -> None:
    model = ComponentModel(spd)
    mask = {"linear1": torch.ones(len(x), C)}
    for call in (
        lambda: ComponentModel(spd, K),
        lambda: model(x, cache_type="output"),
        lambda: model(x, mode="gradients"),
        lambda: model(x, mode="input_cache", module_names=["linear9"]),
        lambda: model(x, mask_infos=make_mask_infos({"linear9": mask["linear1"]})),
        lambda: model(x, mask_infos=make_mask_infos({"linear1": torch.ones(len(x), C + 1)})),
        lambda: make_mask_infos(mask, weight_deltas_and_masks={}),
        lambda: model.calc_causal_importances({"linear1": x}, sampling="twice"),
        lambda: SPDRunInfo.from_path(tmp_path / "nothing"),
        lambda: SPDRunInfo.from_path("wandb:somebody/project/abcdefgh"),
    ):
        with pytest.raises(MicrotomeError) as error:
            call()
        assert "\n" not in str(error.value)
