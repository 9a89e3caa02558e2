"""a + b mod p: a transformer memorises the pairs, and long after finds the rule (Power et al. 2022)."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from microtome.core.device import resolve_device
from microtome.core.seeds import generator, stream_seed
from microtome.dynamics.record_config import ModularAdditionConfig
from microtome.dynamics.tasks.networks import TokenTransformer
from microtome.dynamics.tasks.task import Task


def network(config: ModularAdditionConfig) -> nn.Module:
    """One layer, without layer norm (Nanda et al. 2023): tokens ``a b =``, logits at the last."""
    torch.manual_seed(stream_seed(config.seed, "network"))
    p = config.p
    return TokenTransformer(
        p + 1, p, 3, config.d_model, config.n_heads, config.d_mlp, 1, norm=False, last_only=True
    )


def build(config: ModularAdditionConfig) -> Task:
    """Pairs with a <= b, split at random; the loss is that of all training pairs (or ``batch_size`` of them).

    Of a pair and its mirror image only one is there: a network that merely ignores the order learns nothing
    about the test pairs.
    """
    device, p = resolve_device(config.device), config.p
    model = network(config).to(device)
    a, b = torch.triu_indices(p, p)
    tokens = torch.stack([a, b, torch.full_like(a, p)], dim=1)
    order = torch.randperm(len(a), generator=generator(config.seed, stream="split"))
    n_train = max(1, min(len(a) - 1, round(config.train_fraction * len(a))))
    x, y = tokens[order].to(device), ((a + b) % p)[order].to(device)
    train, test = (x[:n_train], y[:n_train]), (x[n_train:], y[n_train:])
    draws = generator(config.seed, stream="data")

    def loss() -> torch.Tensor:
        if config.batch_size >= n_train:
            return cross_entropy(model(train[0]).double(), train[1])
        rows = torch.randint(n_train, (config.batch_size,), generator=draws).to(device)
        return cross_entropy(model(train[0][rows]).double(), train[1][rows])

    @torch.no_grad()
    def evaluate() -> dict[str, float]:
        logits = model(x)
        right = (logits.argmax(-1) == y).float()
        return {
            "train_accuracy": right[:n_train].mean().item(),
            "test_accuracy": right[n_train:].mean().item(),
            "test_loss": cross_entropy(logits[n_train:], test[1]).item(),
        }

    size = config.probe_size
    # A larger eps than usual: once the training loss is tiny, Adam's steps would throw the network about.
    adamw = {"betas": (0.9, 0.98), "eps": 1e-5}
    return Task("modular-addition", model, test[0][:size], test[1][:size], loss, evaluate, train, adamw)
