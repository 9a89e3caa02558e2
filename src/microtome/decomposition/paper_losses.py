"""The SPD paper's coefficients as a list of losses. Imports no torch."""

from collections.abc import Mapping
from typing import Any

from microtome.decomposition.loss_configs import (
    AnyLoss,
    CIMaskedRecon,
    Faithfulness,
    ImportanceMinimality,
    Schatten,
    StochasticRecon,
    UnmaskedRecon,
)


# The fields of the SPD paper's code that say what is trained on; `losses` takes the place of them.
FIELDS = (
    "faithfulness_coeff",
    "importance_minimality_coeff",
    "stochastic_recon_coeff",
    "stochastic_recon_layerwise_coeff",
    "recon_coeff",
    "recon_layerwise_coeff",
    "schatten_coeff",
    "out_recon_coeff",
    "pnorm",
    "p_anneal_final_p",
    "p_anneal_start_frac",
    "p_anneal_end_frac",
)


def losses_of_coefficients(fields: Mapping[str, Any]) -> tuple[AnyLoss, ...]:
    """The losses whose coefficient is not null, from the values of ``FIELDS``."""
    every: tuple[AnyLoss, ...] = (
        Faithfulness(coeff=fields["faithfulness_coeff"]),
        ImportanceMinimality(
            coeff=fields["importance_minimality_coeff"],
            pnorm=fields["pnorm"],
            p_anneal_start_frac=fields["p_anneal_start_frac"],
            p_anneal_final_p=fields["p_anneal_final_p"],
            p_anneal_end_frac=fields["p_anneal_end_frac"],
        ),
        StochasticRecon(coeff=fields["stochastic_recon_coeff"]),
        StochasticRecon(coeff=fields["stochastic_recon_layerwise_coeff"], sites="layerwise"),
        CIMaskedRecon(coeff=fields["recon_coeff"]),
        CIMaskedRecon(coeff=fields["recon_layerwise_coeff"], sites="layerwise"),
        Schatten(coeff=fields["schatten_coeff"], pnorm=fields["pnorm"]),
        UnmaskedRecon(coeff=fields["out_recon_coeff"]),
    )
    return tuple(loss for loss in every if loss.coeff is not None)
