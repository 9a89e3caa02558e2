"""Decompositions whose mechanisms are planted, so that a sweep's answer is known."""

import pytest
import torch

from microtome.decomposition.config import config_from_mapping
from microtome.decomposition.result import Decomposition
from microtome.targets.config import ResidMLPModelConfig, TMSModelConfig
from microtome.targets.module_target import ModuleTarget
from microtome.targets.resid_mlp import ResidMLP
from microtome.targets.tms import TMS

GATE_SLOPE = 2.0
GATE_OFFSET = -0.5


def linear_gates(site: str, n_instances: int, n_components: int) -> dict[str, torch.Tensor]:
    """Gates ``g = 2 h - 0.5``: importance 0 up to h = 1/4, 1 from h = 3/4 on."""
    empty = torch.zeros(n_instances, n_components, 0)
    return {
        f"gates.{site}.w_in": torch.full((n_instances, n_components, 1), GATE_SLOPE),
        f"gates.{site}.b_in": empty,
        f"gates.{site}.w_out": empty.clone(),
        f"gates.{site}.b_out": torch.full((n_instances, n_components), GATE_OFFSET),
    }


@pytest.fixture
def spd_tms() -> Decomposition:
    """A pentagon (K = 2); component c of linear1 reads feature c, three more components are zero."""
    target = TMS(TMSModelConfig(n_features=5, n_hidden=2, n_instances=2))
    angle = torch.arange(5) * 2 * torch.pi / 5
    rows = torch.stack([angle.cos(), angle.sin()], dim=-1)
    with torch.no_grad():
        target.linear1.weight.copy_(torch.stack([rows, 0.5 * rows]))
        target.b_final.fill_(-0.1)
    left, right = torch.zeros(2, 5, 8), torch.zeros(2, 8, 2)
    left[:, range(5), range(5)] = 1.0
    right[:, :5] = target.linear1.weight.detach()
    parameters = {"components.linear1.V": left, "components.linear1.U": right}
    for site in ("linear1", "linear2"):
        parameters |= linear_gates(site, 2, 8)
    config = config_from_mapping({"method": "spd", "C": 8, "n_ci_mlp_neurons": 0})
    return Decomposition(config, target.requires_grad_(False), parameters)


@pytest.fixture
def spd_resid_mlp() -> Decomposition:
    """Identity embedding, 6 features, one neuron a feature in each of two layers, 9 components a site."""
    target = ResidMLP(ResidMLPModelConfig(n_features=6, d_embed=6, d_mlp=6, n_layers=2, in_bias=True))
    target.reset(embedding="identity")
    with torch.no_grad():
        for i in range(2):
            target.linear(f"layers.{i}.mlp_in").weight.copy_(torch.eye(6)[None])
            target.linear(f"layers.{i}.mlp_out").weight.copy_(0.5 * torch.eye(6)[None])
            target.linear(f"layers.{i}.mlp_in").bias.fill_(-1.0)
    parameters: dict[str, torch.Tensor] = {}
    for name, site in target.sites().items():
        left, right = torch.zeros(1, 6, 9), torch.zeros(1, 9, 6)
        left[0, range(6), range(6)] = 1.0
        right[:, :6] = site.weight.detach()
        parameters |= {f"components.{name}.V": left, f"components.{name}.U": right}
        parameters |= linear_gates(name, 1, 9)
    config = config_from_mapping({"method": "spd", "C": 9, "n_ci_mlp_neurons": 0})
    return Decomposition(config, target.requires_grad_(False), parameters)


@pytest.fixture
def apd_tms(spd_tms: Decomposition) -> Decomposition:
    """The same pentagon in components without gates."""
    left = torch.zeros(2, 5, 5, 1)
    left[:, range(5), range(5), 0] = 1.0
    right = spd_tms.target.sites()["linear1"].weight.unsqueeze(2)
    parameters = {"linear1.A_T": left.transpose(-1, -2).contiguous(), "linear1.B": right.contiguous()}
    config = config_from_mapping(
        {
            "method": "apd",
            "C": 5,
            "m": 1,
            "batch_size": 4,
            "steps": 1,
            "print_freq": 1,
            "lr": 1e-3,
            "topk": 1,
            "task_config": {"task_name": "tms", "feature_probability": 0.05, "pretrained_model_path": "x"},
        }
    )
    return Decomposition(config, spd_tms.target, parameters)


class Module(torch.nn.Module):
    """Two branches that read the same input, a gelu, and a head: order of running is not of definition."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(6, 3)
        self.left = torch.nn.Linear(4, 6)
        self.right = torch.nn.Linear(4, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        other = self.right(x)
        return self.head(torch.nn.functional.gelu(self.left(x)) + other)


@pytest.fixture
def spd_module() -> Decomposition:
    """Somebody's own network, K = 2, random factors and one of each further kind of gate."""
    target = ModuleTarget(Module(), n_instances=2)
    parameters: dict[str, torch.Tensor] = {}
    for name, site in target.sites().items():
        d_in, d_out = site.weight.shape[1:]
        parameters |= {f"components.{name}.V": torch.randn(2, d_in, 5) / 3}
        parameters |= {f"components.{name}.U": torch.randn(2, 5, d_out)}
    kinds = {"left": ("mlp", (5, 1, 4), (5, 4, 1)), "right": ("vector_mlp", (5, 4, 4), (5, 4, 1))}
    kinds["head"] = ("shared_mlp", (6, 4), (4, 5))
    for name, (kind, *shapes) in kinds.items():
        for i, shape in enumerate(shapes):
            parameters[f"gates.{name}.{kind}.{i}.W"] = torch.randn(2, *shape) / 3
            bias = shape[-1:] if kind == "shared_mlp" else (shape[0], shape[-1])
            parameters[f"gates.{name}.{kind}.{i}.b"] = torch.randn(2, *bias)
    config = config_from_mapping({"method": "spd", "C": 5, "task_config": {"task_name": "target_data"}})
    return Decomposition(config, target, parameters)


@pytest.fixture
def sharp_tms(spd_tms: Decomposition) -> Decomposition:
    """The pentagon with the gates of an MLP with hidden neurons: ``g = gelu(8 (h - 0.5))``."""
    parameters = dict(spd_tms.parameters)
    for site in ("linear1", "linear2"):
        parameters[f"gates.{site}.w_in"] = torch.full((2, 8, 2), 8.0)
        parameters[f"gates.{site}.b_in"] = torch.full((2, 8, 2), -4.0)
        parameters[f"gates.{site}.w_out"] = torch.full((2, 8, 2), 0.5)
        parameters[f"gates.{site}.b_out"] = torch.zeros(2, 8)
    config = config_from_mapping({"method": "spd", "C": 8, "n_ci_mlp_neurons": 2})
    return Decomposition(config, spd_tms.target, parameters)
