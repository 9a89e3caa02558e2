"""Causal importance functions of every kind and mode, on every kind of site."""

import pytest
import torch
from torch import Tensor, nn
from written_out import N_OUT, SITES, VOCABULARY, WIDTH, TokenNetwork, method, tokens

from microtome.core.errors import MicrotomeError
from microtome.core.seeds import generator
from microtome.decomposition.full_spd import FullSPD
from microtome.decomposition.importance_functions import ImportanceFunctions
from microtome.decomposition.masks import Draws
from microtome.decomposition.spd_config import SPDConfig
from microtome.targets.module_target import ModuleTarget

SHARED = {"ci_fn_type": "shared_mlp", "ci_fn_hidden_dims": [6]}


class Once(nn.Module):
    """An embedding and two layers that run once each."""

    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Embedding(VOCABULARY, WIDTH)
        self.a = nn.Linear(WIDTH, 3)
        self.c = nn.Linear(3, N_OUT)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.a(self.b(x))))


def once(**settings: object) -> FullSPD:
    config = SPDConfig.from_mapping({"C": 2, "output_loss_type": "kl", "steps": 5, **settings})
    return FullSPD(ModuleTarget(Once(), n_instances=2), config, [0, 1])


def test_a_global_function_reads_all_inputs_in_the_order_of_names() -> None:
    made = once(
        ci_fn_mode="global",
        **SHARED,
        module_info=[{"module_pattern": "a", "C": 4}, {"module_pattern": "[bc]", "C": 3}],
    )
    assert set(made.functions.named()) == {
        f"gates.all_sites.shared_mlp.{i}.{part}" for i in (0, 1) for part in "Wb"
    }
    x = tokens()
    step, _ = made.step_on(x, 0, Draws(0))
    w = made.functions.by_site["all_sites"].weights
    for k in range(2):
        for row in range(2):
            for position in range(3):
                at = (k, row, position)
                word = made.network.sites["b"].weight[k][x[at]]
                seen = torch.cat([step.inputs["a"][0][at], word, step.inputs["c"][0][at]])
                hidden = nn.functional.gelu(seen @ w["shared_mlp.0.W"][k] + w["shared_mlp.0.b"][k])
                gates = hidden @ w["shared_mlp.1.W"][k] + w["shared_mlp.1.b"][k]
                found = torch.cat([step.gate[name][0][at] for name in "abc"])
                torch.testing.assert_close(found, gates)


def test_a_global_function_needs_sites_that_run_alike() -> None:
    with pytest.raises(MicrotomeError, match="run different numbers of times"):
        method(ci_fn_mode="global", **SHARED).compute(tokens(), 0)


@pytest.mark.parametrize("kind", ["vector_mlp", "shared_mlp"])
def test_functions_of_inputs_read_what_an_embedding_gives_out(kind: str) -> None:
    made = once(ci_fn_type=kind, ci_fn_hidden_dims=[3, 2])
    step, _ = made.step_on(tokens(), 0, Draws(0))
    function = made.functions.by_site["b"]
    assert function.weights[f"{kind}.0.W"].shape[-2] == WIDTH
    rows = torch.stack([made.network.sites["b"].weight[k][step.x[k]] for k in range(2)])
    torch.testing.assert_close(step.gate["b"][0], function(rows.flatten(1, 2)).reshape(2, 4, 3, 2))


@pytest.mark.parametrize(
    ("settings", "per_site"),
    [
        ({"n_ci_mlp_neurons": 0}, 1),
        ({"n_ci_mlp_neurons": 5}, 1),
        ({"ci_fn_hidden_dims": [3, 2]}, 1),
        ({"ci_fn_type": "vector_mlp", "ci_fn_hidden_dims": [3]}, 1),
        ({"ci_fn_type": "vector_mlp", "ci_fn_hidden_dims": []}, 1),
        ({"ci_fn_type": "shared_mlp", "ci_fn_hidden_dims": [7]}, 1),
        ({"ci_fn_mode": "global", **SHARED}, 3),
    ],
)
def test_each_kind_learns_and_comes_back_from_its_names(settings: dict[str, object], per_site: int) -> None:
    made, x = once(**settings), tokens()
    found = made.compute(x, 0)
    assert all(torch.isfinite(value).all() for value in found.values())
    gates = {name: p for name, p in made.parameters.items() if name.startswith("gates.") and p.numel()}
    assert all(p.grad is not None and bool(p.grad.any()) for p in gates.values())
    again = ImportanceFunctions.from_parameters(
        made.parameters, made.network.sites, dict(made.functions.counts)
    )
    step, _ = made.step_on(x, 0, Draws(0))
    for name, calls in again(step.inputs, step.inner).items():
        torch.testing.assert_close(calls[0], step.gate[name][0])
    assert len(again.by_site) == len(made.network.sites) // per_site


def test_untrained_functions_keep_the_size_of_what_they_read() -> None:
    config = SPDConfig(C=200, ci_fn_type="vector_mlp", ci_fn_hidden_dims=(64,))
    made = FullSPD(ModuleTarget(nn.Linear(50, 3)), config, [0])
    x = torch.randn(1, 40, 50, generator=generator(0))
    step, _ = made.step_on(x, 0, Draws(0))
    assert 0.5 < float(step.gate[next(iter(step.gate))][0].std()) < 2.0


def test_a_seed_starts_alike_whichever_seeds_are_beside_it() -> None:
    config = SPDConfig(C=3, ci_fn_type="shared_mlp", ci_fn_hidden_dims=(4,), ci_fn_mode="global")
    both = FullSPD(ModuleTarget(TokenNetwork(), n_instances=2), config, [4, 9])
    alone = FullSPD(ModuleTarget(TokenNetwork()), config, [9])
    for name, tensor in alone.parameters.items():
        assert torch.equal(both.parameters[name][1:], tensor), name
        assert not torch.equal(both.parameters[name][:1], tensor) or name.endswith(".b")
    assert set(both.network.sites) == set(SITES)


class Pictures(nn.Module):
    """A convolution with a stride, then a linear read-out; an identity in front of the latter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, stride=2, padding=1)
        self.out = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.conv(x)).flatten(2).mT)


def test_convolutions_and_identities_are_trained_and_masked() -> None:
    config = SPDConfig.from_mapping(
        {
            "module_info": [{"module_pattern": "*", "C": 5}],
            "identity_module_info": [{"module_pattern": "out", "C": 2}],
            "losses": [
                {"name": "stochastic_recon", "coeff": 1.0, "sites": "subset"},
                {"name": "faithfulness", "coeff": 1.0, "relative": True},
                {"name": "hidden_acts_recon", "coeff": 1.0},
            ],
            "use_delta_component": True,
            "ci_fn_type": "vector_mlp",
            "ci_fn_hidden_dims": [3],
        }
    )
    target = ModuleTarget(Pictures(), n_instances=2, identities=["out"])
    made = FullSPD(target, config, [0, 1])
    assert dict(made.functions.counts) == {"conv": 5, "out.pre_identity": 2, "out": 5}
    x = torch.randn(2, 3, 2, 6, 5)
    before = made.compute(x, 0)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in made.parameters.values())
    optimizer = torch.optim.Adam(list(made.parameters.values()), lr=0.05)
    for number in range(15):
        after = made.compute(x, number)
        optimizer.step()
    assert bool((after["faithfulness"] < 0.5 * before["faithfulness"]).all())
