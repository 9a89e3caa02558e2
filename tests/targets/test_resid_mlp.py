import pytest
import torch

from microtome.targets.config import MLPModelConfig, ResidMLPModelConfig
from microtome.targets.mlp import MLP
from microtome.targets.resid_mlp import ResidMLP
from microtome.targets.resid_mlp_folded import folded_output


def test_worked_by_hand() -> None:
    # One feature, two residual dimensions, one neuron.
    target = ResidMLP(ResidMLPModelConfig(n_features=1, d_embed=2, d_mlp=1, in_bias=True))
    with torch.no_grad():
        target.W_E.copy_(torch.tensor([[[1.0, -1.0]]]))
        target.W_U.copy_(torch.tensor([[[1.0], [2.0]]]))
        target.linear("layers.0.mlp_in").weight.copy_(torch.tensor([[[2.0], [1.0]]]))
        target.linear("layers.0.mlp_in").bias.fill_(0.5)  # pyright: ignore
        target.linear("layers.0.mlp_out").weight.copy_(torch.tensor([[[0.0, 3.0]]]))
    # x = 2: r0 (2, -2); neuron relu(4 - 2 + .5) = 2.5; r1 (2, 5.5); out 13. x = -2: neuron 0; out -2 + 4 = 2.
    assert target(torch.tensor([[[2.0], [-2.0]]])).tolist() == [[[13.0], [2.0]]]
    assert target.residual(torch.tensor([[[2.0]]])).tolist() == [[[2.0, 5.5]]]


CONFIGS = [
    {"n_layers": 1},
    {"n_layers": 3, "act_fn_name": "gelu", "in_bias": True, "out_bias": True},
    {"n_layers": 2, "apply_output_act_fn": True, "out_bias": True},
]


@pytest.mark.parametrize("settings", CONFIGS)
@pytest.mark.parametrize("shared", [True, False])
def test_folding_the_embedding_changes_nothing(settings: dict, shared: bool) -> None:
    config = ResidMLPModelConfig(n_features=6, d_embed=20, d_mlp=4, n_instances=3, **settings)
    target = ResidMLP(config, shared_embedding=shared).reset(0, "linear").double()
    x = (2 * torch.rand(3, 11, 6) - 1).double()
    gradients = []
    for output in (target(x), folded_output(target, x)):
        target.zero_grad()
        (output**2).sum().backward()
        gradients.append(
            {name: p.grad.clone() for name, p in target.named_parameters() if p.grad is not None}
        )
        torch.testing.assert_close(output, target(x), rtol=1e-10, atol=1e-12)
    assert gradients[0].keys() == gradients[1].keys() == dict(target.named_parameters()).keys()
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("settings", CONFIGS)
def test_sites_are_the_network(settings: dict) -> None:
    config = ResidMLPModelConfig(n_features=6, d_embed=8, d_mlp=4, n_instances=2, **settings)
    target = ResidMLP(config).reset(0, "linear")
    seen = []

    def as_trained(name: str, value: torch.Tensor) -> torch.Tensor:
        seen.append((name, value.shape[-1]))
        return target.sites()[name].apply(value)

    x = torch.randn(2, 5, 6)
    torch.testing.assert_close(target(x, as_trained), target(x))
    order = [
        (f"layers.{i}.{p}", d) for i in range(config.n_layers) for p, d in (("mlp_in", 8), ("mlp_out", 4))
    ]
    assert seen == order and [name for name, _ in order] == list(target.sites())


def test_random_embedding_has_unit_rows_and_its_transpose_reads_out() -> None:
    config = ResidMLPModelConfig(n_features=10, d_embed=30, d_mlp=4, n_instances=3)
    target = ResidMLP(config, fixed_embedding=True, shared_embedding=True).reset(0, embedding="random")
    assert target.W_E.shape == (1, 10, 30)
    torch.testing.assert_close(target.W_E.norm(dim=-1), torch.ones(1, 10))
    assert torch.equal(target.W_U, target.W_E.transpose(1, 2))
    assert "W_E" not in dict(target.named_parameters()) and "W_E" in target.state_dict()


def test_identity_embedding() -> None:
    config = ResidMLPModelConfig(n_features=4, d_embed=4, d_mlp=2)
    target = ResidMLP(config, fixed_embedding=True).reset(0, embedding="identity")
    assert torch.equal(target.W_E[0], torch.eye(4)) and torch.equal(target.W_U[0], torch.eye(4))


@pytest.mark.parametrize("shared", [True, False])
def test_select(shared: bool) -> None:
    config = ResidMLPModelConfig(n_features=4, d_embed=6, d_mlp=2, n_instances=3)
    target = ResidMLP(config, fixed_embedding=True, shared_embedding=shared).reset(0, embedding="random")
    x = torch.randn(3, 5, 4)
    torch.testing.assert_close(target.select([1, 1])(x[[1, 1]]), target(x)[[1, 1]])
    assert target.select([1, 1]).W_E.shape[0] == (1 if shared else 2)


def test_mlp_equals_torch_layers() -> None:
    target = MLP(MLPModelConfig(sizes=(5, 4, 3), n_instances=2)).reset(0)
    x = torch.randn(2, 6, 5)
    for k in range(2):
        first, second = torch.nn.Linear(5, 4), torch.nn.Linear(4, 3)
        for layer, name in ((first, "layers.0"), (second, "layers.1")):
            layer.weight.data = target.linear(name).weight[k].T
            layer.bias.data = target.linear(name).bias[k]  # pyright: ignore
        torch.testing.assert_close(target(x)[k], second(first(x[k]).relu()))
    as_trained = target(x, lambda name, value: target.sites()[name].apply(value))
    assert torch.equal(as_trained, target(x))
