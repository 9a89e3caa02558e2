"""Random sequences that repeat: predicting the repeat takes an induction head (Olsson et al. 2022)."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from microtome.core.device import resolve_device
from microtome.core.seeds import generator, stream_seed
from microtome.dynamics.record_config import InductionConfig
from microtome.dynamics.tasks.networks import TokenTransformer
from microtome.dynamics.tasks.task import Task


def network(config: InductionConfig) -> nn.Module:
    """Two layers of attention only."""
    torch.manual_seed(stream_seed(config.seed, "network"))
    n, length = config.vocabulary, 2 * config.half_length
    return TokenTransformer(n, n, length, config.d_model, config.n_heads, 0, 2)


def build(config: InductionConfig) -> Task:
    """Each sequence repeats itself with a period of its own, so that looking back a fixed distance is no use.

    The loss counts the tokens of the repeat, but for its first, which is anybody's guess.
    """
    device, length = resolve_device(config.device), 2 * config.half_length
    model = network(config).to(device)
    draws = generator(config.seed, stream="data")

    def sequences(n: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
        noise = torch.rand(n, config.vocabulary, generator=source)
        tokens = noise.argsort(-1)  # no token comes twice before the repeat
        shortest = max(2, config.half_length // 2)
        period = torch.randint(shortest, config.half_length + 1, (n, 1), generator=source)
        place = torch.arange(length).expand(n, -1)
        repeated = tokens.gather(1, place % period)
        following = torch.full_like(repeated, -100)
        following[:, :-1] = repeated[:, 1:].where(place[:, 1:] > period, -100)
        return repeated.to(device), following.to(device)

    probe, labels = sequences(config.probe_size, generator(config.seed, stream="probe"))

    @torch.no_grad()
    def evaluate() -> dict[str, float]:
        counted = labels != -100
        right = (model(probe).argmax(-1) == labels)[counted]
        return {"induction_accuracy": right.float().mean().item()}

    def loss() -> Tensor:
        tokens, following = sequences(config.batch_size, draws)
        return cross_entropy(model(tokens).flatten(0, 1), following.flatten())

    return Task("induction", model, probe, labels, loss, evaluate)
