"""APD's training step, fast and written out, for the original APD code's configurations."""

from collections.abc import Callable

import torch
from torch import Tensor

from microtome.data.sparse_features import SparseFeatures
from microtome.decomposition.apd import APD
from microtome.decomposition.apd_config import APDConfig
from microtome.targets.config import ResidMLPModelConfig, TMSModelConfig
from microtome.targets.network import Target
from microtome.targets.resid_mlp import ResidMLP
from microtome.targets.tms import TMS

Case = tuple[Target, APDConfig, Tensor]


def trained_like(target: TMS) -> TMS:
    """Unit features and a negative bias, as training finds them, so that few outputs are open."""
    with torch.no_grad():
        target.linear1.weight.div_(target.linear1.weight.norm(dim=-1, keepdim=True))
        target.b_final.fill_(-0.3)
    return target


def config(**settings: object) -> APDConfig:
    """The settings that all cases share, and the case's own."""
    shared = {"steps": 20000, "print_freq": 1000, "lr": 1e-3, "topk_recon_coeff": 1.0, "schatten_pnorm": 0.9}
    return APDConfig.from_mapping({**shared, **settings})


def tms_5_2() -> Case:
    """12 instances, batch 2048, C 5, m 3."""
    target = trained_like(TMS(TMSModelConfig(n_features=5, n_hidden=2, n_instances=12)).reset(0))
    settings = config(C=5, topk=0.211, schatten_coeff=0.7, schatten_pnorm=1.0, batch_size=2048)
    return target, settings, SparseFeatures(12, 5, 0.05).batch(2048, torch.Generator().manual_seed(0))


def tms_40_10() -> Case:
    """3 instances, batch 2048, C 40, m 11."""
    target = trained_like(TMS(TMSModelConfig(n_features=40, n_hidden=10, n_instances=3)).reset(0))
    settings = config(C=40, topk=2.0, topk_recon_coeff=10.0, schatten_coeff=15.0, batch_size=2048)
    return target, settings, SparseFeatures(3, 40, 0.05).batch(2048, torch.Generator().manual_seed(0))


def resid_mlp1() -> Case:
    """1 layer, 100 features, d_embed 1000, d_mlp 50, batch 256, C 130, m 50."""
    shape = ResidMLPModelConfig(n_features=100, d_embed=1000, d_mlp=50)
    target = ResidMLP(shape, fixed_embedding=True).reset(0, embedding="random")
    settings = config(
        C=130, topk=1.28, act_recon_coeff=1.0, schatten_coeff=10.0, batch_size=256, unit_norm_matrices=True
    )
    data = SparseFeatures(1, 100, 0.01, value_range=(-1.0, 1.0))
    return target, settings, data.batch(256, torch.Generator().manual_seed(0))


CASES: dict[str, Callable[[], Case]] = {"tms_5-2": tms_5_2, "tms_40-10": tms_40_10, "resid_mlp1": resid_mlp1}


def steps_of(name: str) -> tuple[Callable[[], None], Callable[[], None]]:
    """One fast and one written-out training step, each on parameters of its own."""
    target, settings, x = CASES[name]()

    def stepper(plain: bool) -> Callable[[], None]:
        method = APD(target, settings, plain=plain)
        optimizer = torch.optim.AdamW(list(method.parameters.values()), lr=1e-3, weight_decay=0.0, fused=True)

        def step() -> None:
            method.before_step()
            method.compute(x, 0)
            method.after_backward()
            optimizer.step()

        return step

    return stepper(plain=False), stepper(plain=True)
