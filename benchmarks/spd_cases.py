"""SPD's training step, fast and written out: the SPD paper's configurations, and those of its later code."""

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
PAPER_RESID = {"pnorm": 2.0, "out_recon_coeff": 0.0, "importance_minimality_coeff": 1e-5}


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
    config = SPDConfig.from_mapping({"batch_size": 2048, **settings})
    data = SparseFeatures(k, model.n_features, 0.01, value_range=(-1.0, 1.0))
    return target.requires_grad_(False), data, config


def later(c: int, coefficient: float, pnorm: float) -> dict[str, object]:
    """The later code's settings for its toy models: no faithfulness, a delta component, leaky hard gates."""
    return {
        "C": c,
        "ci_fn_type": "mlp",
        "ci_fn_hidden_dims": (16,),
        "sigmoid_type": "leaky_hard",
        "use_delta_component": True,
        "losses": (
            {"name": "importance_minimality", "coeff": coefficient, "pnorm": pnorm},
            {"name": "stochastic_recon", "coeff": 1.0},
            {"name": "stochastic_recon", "sites": "layerwise", "coeff": 1.0},
        ),
    }


def shared(hidden: int, **settings: object) -> dict[str, object]:
    """The same with one causal importance network a site."""
    return {**settings, "ci_fn_type": "shared_mlp", "ci_fn_hidden_dims": (hidden,)}


CASES: dict[str, Callable[[int], Case]] = {
    "tms_5-2": lambda k: tms(5, 2, k, C=20),
    "tms_40-10": lambda k: tms(40, 10, k, C=200, pnorm=2.0, importance_minimality_coeff=1e-4),
    "tms_40-10-id": lambda k: tms(40, 10, k, 1, C=200, pnorm=2.0, importance_minimality_coeff=1e-4),
    "resid_mlp1": lambda k: resid_mlp(k, 1, 50, C=100, **PAPER_RESID),
    "resid_mlp2": lambda k: resid_mlp(k, 2, 25, C=400, **PAPER_RESID),
    "later_tms_5-2": lambda k: tms(5, 2, k, **later(20, 3e-3, 1.0)),
    "later_tms_40-10": lambda k: tms(40, 10, k, **later(200, 1e-4, 2.0)),
    "later_resid_mlp1": lambda k: resid_mlp(k, 1, 50, **later(100, 1e-5, 2.0)),
    "later_resid_mlp2_shared": lambda k: resid_mlp(k, 2, 25, **shared(256, **later(400, 1e-4, 2.0))),
}

# CPU ms of one step of the later code's own training, as published for another machine (2 cores AMD EPYC).
REFERENCE_MS = {
    "later_tms_5-2": (29.0, 34.0),
    "later_tms_40-10": (480.0, 760.0),
    "later_resid_mlp1": (264.0, 291.0),
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
        def draw(like: Tensor) -> Tensor:
            return torch.rand(like.shape, generator=method.generator)

        losses = plain_spd_losses(target, method.factors(), method.functions, config, x, draw)
        losses["total"].sum().backward()

    return stepper(fast), stepper(plain)
