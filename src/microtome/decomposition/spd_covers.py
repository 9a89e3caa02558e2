"""Which configurations the fast step of SPD computes."""

from microtome.decomposition import loss_configs as kinds
from microtome.decomposition.spd_config import SPDConfig
from microtome.targets.network import Target

_MASKED = (kinds.CIMaskedRecon, kinds.StochasticRecon)
_OTHERS = (kinds.Faithfulness, kinds.ImportanceMinimality, kinds.Schatten, kinds.UnmaskedRecon)


def covers(config: SPDConfig, target: Target) -> bool:
    """Whether ``SPD`` takes all of ``config`` on ``target``, in one process.

    Linear sites on inputs that are numbers; the paper's reconstruction losses, faithfulness, one importance
    minimality and Schatten; both leaky hard sigmoids; causal importance functions of single sites.
    """
    return (
        all(_takes(loss) for loss in config.all_losses.values())
        and _one_minimality(config)
        and _takes_functions(config)
        and config.identity_module_info is None
        and config.gradient_accumulation_steps == 1
        and not config.autocast_bf16
        and not config.activation_checkpointing
        and all(site.kind == "linear" for site in target.sites().values())
        and target.spec()["kind"] != "language_model"
    )


def _takes(loss: kinds.LossConfig) -> bool:
    if isinstance(loss, kinds.Faithfulness):
        return not loss.relative
    return isinstance(loss, _OTHERS) or (isinstance(loss, _MASKED) and loss.sites != "subset")


def _one_minimality(config: SPDConfig) -> bool:
    """The sums over the batch are made for a single p."""
    return sum(isinstance(loss, kinds.ImportanceMinimality) for loss in config.all_losses.values()) < 2


def _takes_functions(config: SPDConfig) -> bool:
    wanted = config.importance_function
    # Scalar gates with more layers would need their hidden activations in memory as a whole.
    shallow = wanted.kind != "mlp" or len(wanted.hidden_dims) < 2
    return wanted.mode == "layerwise" and shallow and wanted.sigmoid_type in ("paper", "leaky_hard")
