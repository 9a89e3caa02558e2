"""The circuit that carries induction: planted among components that do nothing, found, and taken away."""

import pytest
import torch

from microtome.core.errors import MicrotomeError
from microtome.decomposition.induction_circuit import ablate_circuit, find_circuit
from microtome.decomposition.result import Decomposition
from microtome.decomposition.spd_config import SPDConfig
from microtome.targets.induction_config import InductionModelConfig
from microtome.training.induction import fit_induction, induction_data
from microtome.training.induction_config import InductionTrainConfig

MODEL = InductionModelConfig(vocab_size=24, seq_len=16, d_model=24)
TRAINING = InductionTrainConfig(
    ih_model_config=MODEL, period=(4, 10), steps=700, batch_size=48, lr=6e-3, lr_warmup_pct=0.05, device="cpu"
)


@pytest.fixture(scope="module")
def planted() -> tuple[Decomposition, dict[str, list[int]]]:
    """Each projection as its singular parts, at random places among noise that is never important."""
    target, _ = fit_induction(TRAINING)
    names = [name for name in target.sites() if ".attn." in name]
    draws = torch.Generator().manual_seed(0)
    parameters, places = {}, {}
    for name in names:
        weight = target.sites()[name].weight[0].detach()
        rank, count = len(weight), len(weight) + 30
        left, sizes, right = torch.linalg.svd(weight)
        place = torch.randperm(count, generator=draws)[:rank].sort().values
        v, u = (torch.randn(s, generator=draws) for s in ((rank, count), (count, rank)))
        v, u = v * 0.02, u * 0.02
        v[:, place], u[place] = left * sizes, right
        bias = torch.full((count,), -1.0)
        bias[place] = 1.0
        places[name] = place.tolist()
        parameters |= {
            f"components.{name}.V": v[None],
            f"components.{name}.U": u[None],
            f"gates.{name}.shared_mlp.0.W": torch.zeros(1, rank, count),
            f"gates.{name}.shared_mlp.0.b": bias[None],
        }
    config = SPDConfig(
        target_module_patterns=("blocks.*.attn.*",),
        C=54,
        ci_fn_type="shared_mlp",
        ci_fn_hidden_dims=(),
        sigmoid_type="leaky_hard",
        output_loss_type="kl",
    )
    data = induction_data(TRAINING).spec()
    return Decomposition(config, target, parameters, data, None, sigmoid_type="leaky_hard"), places


def test_planted_components_are_found_and_carry_induction(
    planted: tuple[Decomposition, dict[str, list[int]]],
) -> None:
    d, places = planted
    circuit = find_circuit(d)
    assert circuit.components == places and circuit.size == 8 * 24
    found = ablate_circuit(d, circuit, n_random=4)
    assert found.target > 0.9 and abs(found.only - found.target) < 0.02
    assert found.removed < 3 * found.chance and max(found.others_only) < 3 * found.chance
    assert min(found.others_removed) > found.target - 0.05
    assert max(found.anywhere_only) < found.target - 0.3


def test_half_a_circuit_does_not_do(planted: tuple[Decomposition, dict[str, list[int]]]) -> None:
    d, places = planted
    circuit = find_circuit(d)
    for layer in ("blocks.0.", "blocks.1."):
        half = {site: numbers if site.startswith(layer) else [] for site, numbers in places.items()}
        one_layer = type(circuit)(half, circuit.importance)
        assert ablate_circuit(d, one_layer, n_random=1).removed < 0.5


def test_a_threshold_that_nothing_reaches(planted: tuple[Decomposition, dict[str, list[int]]]) -> None:
    with pytest.raises(MicrotomeError, match="threshold=2"):
        find_circuit(planted[0], threshold=2.0)
