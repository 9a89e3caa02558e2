"""SPD's training step, fast and written out, for the SPD paper's configurations."""

from collections.abc import Callable

import torch
from torch import Tensor

from microtome.core.seeds import generator
from microtome.data.sparse_features import SparseFeatures
from microtome.decomposition.spd import SPD
from microtome.decomposition.spd_config import SPDConfig
from microtome.decomposition.spd_plain import plain_spd_losses
from microtome.targets.config import ResidMLPModelConfig, TMSModelConfig
from microtome.targets.network import Target
from microtome.targets.resid_mlp import ResidMLP
from microtome.targets.tms import TMS

Case = tuple[Target, SparseFeatures, SPDConfig]


def tms(n_features: int, n_hidden: int, k: int, hidden_layers: int = 0, **settings: object) -> Case:
    """The SPD paper's sizes: batch 4096, features on with probability 0.05."""
    model = TMSModelConfig(
        n_features=n_features, n_hidden=n_hidden, n_instances=k, n_hidden_layers=hidden_layers
    )
    target = TMS(model).reset(0, hidden="identity")
    config = SPDConfig.from_mapping({"batch_size": 4096, **settings})
    return target.requires_grad_(False), SparseFeatures(k, n_features, 0.05), config


def resid_mlp(k: int, layers: int, d_mlp: int, **settings: object) -> Case:
    """The SPD paper's residual MLPs: batch 2048, features on with probability 0.01."""
    model = ResidMLPModelConfig(n_instances=k, d_mlp=d_mlp, n_layers=layers)
    target = ResidMLP(model, fixed_embedding=True, shared_embedding=True).reset(0, embedding="random")
    config = SPDConfig.from_mapping({"batch_size": 2048, "pnorm": 2.0, "out_recon_coeff": 0.0, **settings})
    data = SparseFeatures(k, model.n_features, 0.01, value_range=(-1.0, 1.0))
    return target.requires_grad_(False), data, config


CASES: dict[str, Callable[[int], Case]] = {
    "tms_5-2": lambda k: tms(5, 2, k, C=20),
    "tms_40-10": lambda k: tms(40, 10, k, C=200, pnorm=2.0, importance_minimality_coeff=1e-4),
    "tms_40-10-id": lambda k: tms(40, 10, k, 1, C=200, pnorm=2.0, importance_minimality_coeff=1e-4),
    "resid_mlp1": lambda k: resid_mlp(k, 1, 50, C=100, importance_minimality_coeff=1e-5),
    "resid_mlp2": lambda k: resid_mlp(k, 2, 25, C=400, importance_minimality_coeff=1e-5),
}


def steps_of(name: str, k: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """One fast and one written-out training step of ``k`` seeds, each on parameters of its own."""
    target, data, config = CASES[name](k)

    def stepper(losses: Callable[[SPD, Tensor], None]) -> Callable[[], None]:
        method = SPD(target, config, list(range(k)))
        optimizer = torch.optim.AdamW(list(method.parameters.values()), lr=1e-3, weight_decay=0.0, fused=True)
        draws = generator(0)

        def step() -> None:
            optimizer.zero_grad()
            losses(method, data.batch(config.batch_size, draws, k))
            optimizer.step()

        return step

    def fast(method: SPD, x: Tensor) -> None:
        method.compute(x, 0)

    def plain(method: SPD, x: Tensor) -> None:
        numbers = torch.rand
        losses = plain_spd_losses(
            target, method.subcomponents, config, x, lambda ci: numbers(ci.shape, generator=method.generator)
        )
        losses["total"].sum().backward()

    return stepper(fast), stepper(plain)
