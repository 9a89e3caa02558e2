"""Training the toy models in memory: all instances as one batched program."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.core.device import resolve_device
from microtome.core.errors import MicrotomeError
from microtome.core.seeds import generator
from microtome.data.labels import ResidLabels, feature_importances, label_coefficients
from microtome.data.sparse_features import SparseFeatures
from microtome.targets.config import TMSModelConfig
from microtome.targets.resid_mlp import Embedding, ResidMLP
from microtome.targets.resid_mlp_folded import folded_output
from microtome.targets.tms import TMS, HiddenLayers
from microtome.training.config import InstanceSettings, ResidMLPTrainConfig, TMSTrainConfig
from microtome.training.optimise import Optimisation, Report, check_final, optimise
from microtome.training.represented import found_polygon

FINAL_BATCHES = 10


def fit_tms(config: TMSTrainConfig, progress: Report | None = None) -> tuple[TMS, Float[Tensor, " K"]]:
    """Train ``n_instances`` Toy Models of Superposition at once, without touching the disk.

    Loss: mean over batch and features of ``(|x| - output)^2``. Returns the frozen target with the instances
    that ``keep`` names (best first when it is a number) and their losses on fresh data, the same for all.
    Raises Diverged.
    """
    device = resolve_device(config.device)
    target = (
        TMS(config.tms_model_config).reset(config.seed, config.initialisation, _hidden(config)).to(device)
    )
    data = tms_data(config, device)
    draws = generator(config.seed, device, "data")

    def losses_on(x: Tensor) -> Tensor:
        return (x.abs() - target(x)).square().mean(dim=(1, 2))

    optimise(
        target.parameters(),
        lambda _: losses_on(data.batch(config.batch_size, draws)),
        optimisation(config, config.steps, config.lr, config.lr_schedule),
        progress,
    )
    final = _final_losses(losses_on, data, config.seed, config.batch_size, FINAL_BATCHES)
    order = kept_instances(config, final, found_polygon(target))
    return target.select(order), final[order]


def fit_resid_mlp(
    config: ResidMLPTrainConfig, progress: Report | None = None
) -> tuple[ResidMLP, Float[Tensor, " K"]]:
    """Train ``n_instances`` residual MLPs at once, without touching the disk.

    ``readoff``: mean of ``importance * (output - label)^2``; ``resid``: mean of ``(r_L - label W_E)^2``.
    Returns the frozen target and its losses on fresh data, averaged over ``n_batches_final_losses``.
    Raises Diverged.
    """
    device = resolve_device(config.device)
    fixed = config.fixed_random_embedding or config.fixed_identity_embedding
    target = ResidMLP(config.resid_mlp_config, fixed_embedding=fixed, shared_embedding=fixed)
    target.reset(config.seed, config.initialisation, _embedding(config)).to(device)
    data, labels = resid_mlp_data(config, device), resid_mlp_labels(config)
    importances = feature_importances(config.resid_mlp_config.n_features, config.importance_val).to(device)
    draws = generator(config.seed, device, "data")

    def losses_on(x: Tensor) -> Tensor:
        if config.loss_type == "resid":
            return (target.residual(x) - labels(x) @ target.W_E).square().mean(dim=(1, 2))
        return (importances * (folded_output(target, x) - labels(x)).square()).mean(dim=(1, 2))

    optimise(
        target.parameters(),
        lambda _: losses_on(data.batch(config.batch_size, draws)),
        optimisation(config, config.steps, config.lr, config.lr_schedule),
        progress,
    )
    final = _final_losses(losses_on, data, config.seed, config.batch_size, config.n_batches_final_losses)
    order = kept_instances(config, final)
    return target.select(order), final[order]


def fit_pentagons(
    n: int = 1, seed: int = 0, n_hidden_layers: int = 0, steps: int = 5000, progress: Report | None = None
) -> TMS:
    """``n`` TMS 5-2 that found the pentagon, out of ``n + 2`` initialisations trained in one batch.

    Hidden layers, when asked for, are the fixed identity. The recipe is the original APD code's: batch 1024,
    AdamW 5e-3 with linear decay. Raises MicrotomeError when fewer than ``n`` found it.
    """
    config = TMSTrainConfig(
        tms_model_config=TMSModelConfig(
            n_features=5, n_hidden=2, n_hidden_layers=n_hidden_layers, n_instances=n + 2
        ),
        batch_size=1024,
        steps=steps,
        lr=5e-3,
        seed=seed,
        device="cpu",
        threads=1,
        fixed_identity_hidden_layers=n_hidden_layers > 0,
    )
    target, _ = fit_tms(config, progress)
    found = found_polygon(target).nonzero().flatten().tolist()
    if len(found) < n:
        raise MicrotomeError(
            f"steps={steps}: only {len(found)} of {n + 2} initialisations found the pentagon; "
            "train for more steps or from another seed"
        )
    return target.select(found[:n])


def tms_data(config: TMSTrainConfig, device: str | torch.device = "cpu") -> SparseFeatures:
    """The inputs that a TMS is trained on, uniform in [0, 1] where they are on."""
    model = config.tms_model_config
    return SparseFeatures(
        model.n_instances,
        model.n_features,
        config.feature_probability,
        config.data_generation_type,
        (0.0, 1.0),
        config.synced_inputs,
        device,
    )


def resid_mlp_data(config: ResidMLPTrainConfig, device: str | torch.device = "cpu") -> SparseFeatures:
    """The inputs that a residual MLP is trained on, uniform in [-1, 1] where they are on."""
    model = config.resid_mlp_config
    return SparseFeatures(
        model.n_instances,
        model.n_features,
        config.feature_probability,
        config.data_generation_type,
        (-1.0, 1.0),
        config.synced_inputs,
        device,
    )


def resid_mlp_labels(config: ResidMLPTrainConfig) -> ResidLabels:
    """The label function, one for all instances."""
    model = config.resid_mlp_config
    coefficients = label_coefficients(model.n_features, config.label_fn_seed, config.use_trivial_label_coeffs)
    return ResidLabels(coefficients, config.label_type, model.act_fn_name)


def optimisation(config: InstanceSettings, steps: int, lr: float, schedule: str) -> Optimisation:
    """The loop's settings out of a training configuration."""
    return Optimisation(
        steps=steps,
        lr=lr,
        lr_schedule=schedule,
        lr_warmup_pct=config.lr_warmup_pct,
        lr_exponential_halflife=config.lr_exponential_halflife,
        weight_decay=config.weight_decay,
        report_every=config.print_freq,
    )


def kept_instances(config: InstanceSettings, losses: Tensor, found: Tensor | None = None) -> list[int]:
    """Instances that ``keep`` names: all in order, or the N best, those that found the solution first."""
    if config.keep == "all":
        return list(range(len(losses)))
    penalty = torch.zeros_like(losses) if found is None else (~found).to(losses)
    ranked = sorted(range(len(losses)), key=lambda k: (float(penalty[k]), float(losses[k])))
    return ranked[: config.keep]


@torch.no_grad()
def _final_losses(
    losses_on: Callable[[Tensor], Tensor], data: SparseFeatures, seed: int, batch_size: int, batches: int
) -> Float[Tensor, " K"]:
    """Losses on fresh inputs, the same for every instance, so that instances can be ranked."""
    draws = generator(seed, data.device, "final losses")
    k = data.n_instances
    losses = [losses_on(data.batch(batch_size, draws, 1).expand(k, -1, -1)) for _ in range(batches)]
    return check_final(torch.stack(losses).mean(0))


def _hidden(config: TMSTrainConfig) -> HiddenLayers:
    if config.fixed_identity_hidden_layers:
        return "identity"
    return "random" if config.fixed_random_hidden_layers else "trained"


def _embedding(config: ResidMLPTrainConfig) -> Embedding:
    if config.fixed_identity_embedding:
        return "identity"
    return "random" if config.fixed_random_embedding else "trained"
