import json
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

from microtome.core.errors import CannotLoad, MicrotomeError
from microtome.data.loading import data_from_spec
from microtome.targets.config import ResidMLPModelConfig, TMSModelConfig
from microtome.targets.loading import build, load_target
from microtome.targets.mlp import MLP, MLPModelConfig
from microtome.targets.resid_mlp import ResidMLP
from microtome.targets.tms import TMS

# As the original codes wrote them.
APD_TMS_YAML = {
    "batch_size": 1024,
    "data_generation_type": "at_least_zero_active",
    "feature_probability": 0.05,
    "fixed_identity_hidden_layers": False,
    "fixed_random_hidden_layers": False,
    "seed": 0,
    "steps": 5000,
    "lr": 0.005,
    "synced_inputs": None,
    "tms_model_config": {
        "device": "cuda",
        "n_features": 5,
        "n_hidden": 2,
        "n_hidden_layers": 0,
        "n_instances": 3,
    },
    "wandb_project": None,
}
SPD_RESID_YAML = {
    "batch_size": 2048,
    "feature_probability": 0.01,
    "fixed_identity_embedding": False,
    "fixed_random_embedding": True,
    "label_type": "act_plus_resid",
    "data_generation_type": "exactly_one_active",
    "resid_mlp_config": {
        "act_fn_name": "gelu",
        "d_embed": 12,
        "d_mlp": 4,
        "in_bias": True,
        "n_features": 6,
        "n_layers": 2,
        "out_bias": False,
    },
}


def save(folder: Path, name: str, state: dict[str, Tensor], config: dict) -> Path:
    torch.save(state, folder / f"{name}.pth")
    (folder / f"{name}_train_config.yaml").write_text(yaml.safe_dump(config))
    return folder / f"{name}.pth"


def apd_tms() -> dict[str, Tensor]:
    return {"b_final": torch.randn(3, 5), "linear1.weight": torch.randn(3, 5, 2)}


def test_apd_tms(tmp_path: Path) -> None:
    state = apd_tms()
    loaded = load_target(save(tmp_path, "tms", state, APD_TMS_YAML))
    x = torch.rand(3, 7, 5)
    hidden = torch.einsum("kbn,knh->kbh", x, state["linear1.weight"])
    out = torch.einsum("kbh,knh->kbn", hidden, state["linear1.weight"]) + state["b_final"][:, None]
    torch.testing.assert_close(loaded.target(x), out.relu())
    assert not any(p.requires_grad for p in loaded.target.parameters())
    assert loaded.data is not None
    data = data_from_spec(loaded.data)
    assert data.batch(4, None, 2).shape == (2, 4, 5) and data.spec()["value_range"] == [0.0, 1.0]


class PaperTMS(nn.Module):
    """The SPD paper's network, written with nn.Linear."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.linear1 = nn.Linear(5, 2, bias=False)
        self.hidden_layers = nn.ModuleList([nn.Linear(2, 2, bias=False)])
        self.linear2 = nn.Linear(2, 5)
        if tied:
            self.linear2.weight.data = self.linear1.weight.data.T

    def forward(self, x: Tensor) -> Tensor:
        return self.linear2(self.hidden_layers[0](self.linear1(x))).relu()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("prefix", ["", "model.", "target_model."])
def test_spd_paper_tms(tmp_path: Path, tied: bool, prefix: str) -> None:
    paper = PaperTMS(tied)
    model = {"n_features": 5, "n_hidden": 2, "n_hidden_layers": 1, "tied_weights": True}
    state = {prefix + name: value for name, value in paper.state_dict().items()}
    if prefix:  # a decomposition's checkpoint: the target is in it
        state["components.linear1.A"] = torch.randn(5, 20)
    path = save(tmp_path, "tms", state, {**APD_TMS_YAML, "tms_model_config": {**model, "device": "cpu"}})
    target = load_target(path).target
    x = torch.rand(1, 7, 5)
    torch.testing.assert_close(target(x)[0], paper(x[0]))
    assert target.sites()["linear2"].tied_to == ("linear1" if tied else None)


def test_spd_paper_resid_mlp(tmp_path: Path) -> None:
    layers = [(nn.Linear(12, 4), nn.Linear(4, 12, bias=False)) for _ in range(2)]
    state = {"W_E": torch.randn(6, 12), "W_U": torch.randn(12, 6)}
    for i, (mlp_in, mlp_out) in enumerate(layers):
        state |= {f"layers.{i}.mlp_in.{name}": value for name, value in mlp_in.state_dict().items()}
        state |= {f"layers.{i}.mlp_out.{name}": value for name, value in mlp_out.state_dict().items()}
    path = save(tmp_path, "resid_mlp", state, SPD_RESID_YAML)
    (tmp_path / "label_coeffs.json").write_text(json.dumps([1.0, 1.5, 1, 1, 1, 2]))
    x = torch.randn(1, 7, 6)
    stream = x[0] @ state["W_E"]
    for mlp_in, mlp_out in layers:
        stream = stream + mlp_out(nn.functional.gelu(mlp_in(stream)))
    loaded = load_target(path)
    torch.testing.assert_close(loaded.target(x)[0], stream @ state["W_U"])
    assert loaded.label_coeffs is not None and loaded.label_coeffs.tolist() == [1.0, 1.5, 1, 1, 1, 2]
    assert loaded.data is not None and loaded.data["value_range"] == [-1.0, 1.0]


def test_apd_resid_mlp(tmp_path: Path) -> None:
    config = ResidMLPModelConfig(n_instances=2, n_features=6, d_embed=12, d_mlp=4)
    state = ResidMLP(config).reset(0).state_dict()
    model = {**config.as_dict(), "init_scale": 2.0}
    old = {name.replace("mlp_in", "linear1"): value for name, value in state.items()}
    target = load_target(save(tmp_path, "resid_mlp", old, {"resid_mlp_config": model})).target
    x = torch.randn(2, 7, 6)
    reference = x @ state["W_E"]
    neurons = (reference @ state["layers.0.mlp_in.weight"]).relu()
    reference = reference + neurons @ state["layers.0.mlp_out.weight"]
    torch.testing.assert_close(target(x), reference @ state["W_U"])


TARGETS = {
    "tms": TMS(TMSModelConfig(n_features=5, n_hidden=2, n_hidden_layers=1, n_instances=2)),
    "untied": TMS(TMSModelConfig(n_features=5, n_hidden=2, tied_weights=False, n_instances=2)),
    "resid": ResidMLP(ResidMLPModelConfig(n_features=5, d_embed=6, d_mlp=3, n_instances=2), True, True),
    "mlp": MLP(MLPModelConfig(sizes=(5, 4, 3), n_instances=2)),
}


@pytest.mark.parametrize("name", TARGETS)
def test_spec_rebuilds_every_target(name: str) -> None:
    target = TARGETS[name].reset(0)
    again = build(json.loads(json.dumps(target.spec())))
    again.load_state_dict(target.state_dict())
    x = torch.randn(2, 3, 5)
    assert torch.equal(again(x), target(x))
    chosen = target.select([1])
    assert build(chosen.spec()).n_instances == chosen.n_instances == 1


def test_placeholder_and_missing_files_say_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(CannotLoad, match=r"placeholder.*microtome train tms.*latest"):
        load_target("./out/tms_model_placeholder/tms.pth")
    with pytest.raises(CannotLoad, match=r"microtome train tms.*latest"):
        load_target(tmp_path / "tms.pth")
    torch.save(apd_tms(), tmp_path / "tms.pth")
    with pytest.raises(CannotLoad, match=r"no tms_train_config\.yaml beside it"):
        load_target(tmp_path / "tms.pth")


def test_nan_weight_is_named(tmp_path: Path) -> None:
    state = apd_tms()
    state["b_final"][1, 2] = float("nan")
    with pytest.raises(CannotLoad, match="b_final holds NaN"):
        load_target(save(tmp_path, "tms", state, APD_TMS_YAML))


def test_shape_that_the_configuration_denies(tmp_path: Path) -> None:
    state = {"b_final": torch.randn(3, 5), "linear1.weight": torch.randn(3, 5, 4)}
    with pytest.raises(CannotLoad, match=r"linear1.weight has shape \[3, 5, 4\].*\[3, 5, 2\]"):
        load_target(save(tmp_path, "tms", state, APD_TMS_YAML))


def test_other_tensors_than_expected(tmp_path: Path) -> None:
    with pytest.raises(CannotLoad, match=r"has no tensor linear1\.weight"):
        load_target(save(tmp_path, "tms", {"fc.weight": torch.zeros(2, 2)}, APD_TMS_YAML))
    with pytest.raises(CannotLoad, match="unexpected tensors"):
        load_target(save(tmp_path, "tms", {**apd_tms(), "extra": torch.zeros(3)}, APD_TMS_YAML))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 truncated", b"not a checkpoint"])
def test_broken_files_are_one_line(tmp_path: Path, content: bytes) -> None:
    save(tmp_path, "tms", apd_tms(), APD_TMS_YAML)
    (tmp_path / "tms.pth").write_bytes(content)
    with pytest.raises(MicrotomeError) as caught:
        load_target(tmp_path / "tms.pth")
    assert "\n" not in str(caught.value) and "tms.pth" in str(caught.value)


def test_digits_with_one_number_for_the_hidden_sizes(tmp_path: Path) -> None:
    torch.save(MLP(MLPModelConfig(sizes=(64, 7, 10))).state_dict(), tmp_path / "digits.pth")
    (tmp_path / "digits_train_config.yaml").write_text("hidden_sizes: 7\n")
    with pytest.raises(CannotLoad, match="hidden_sizes=7: not a list"):
        load_target(tmp_path)
