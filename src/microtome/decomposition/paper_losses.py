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


_EXPONENT = ("pnorm", "p_anneal_final_p", "p_anneal_start_frac", "p_anneal_end_frac")
# Coefficient -> (name, sites) of its loss.
_NAMES = {
    "faithfulness_coeff": ("faithfulness", "all"),
    "importance_minimality_coeff": ("importance_minimality", "all"),
    "stochastic_recon_coeff": ("stochastic_recon", "all"),
    "stochastic_recon_layerwise_coeff": ("stochastic_recon", "layerwise"),
    "recon_coeff": ("ci_masked_recon", "all"),
    "recon_layerwise_coeff": ("ci_masked_recon", "layerwise"),
    "schatten_coeff": ("schatten", "all"),
    "out_recon_coeff": ("unmasked_recon", "all"),
}


def place_in_losses(losses: Any, dotted: str) -> str:
    """``losses.<i>.coeff`` for the coefficient of a loss that the list has once (``.pnorm`` for its p).

    Any other setting stands where its name says.
    """
    wanted = _NAMES.get("importance_minimality_coeff" if dotted in _EXPONENT else dotted)
    if wanted is None or not isinstance(losses, list):
        return dotted
    found = [
        i
        for i, loss in enumerate(losses)
        if isinstance(loss, Mapping) and (loss.get("name"), loss.get("sites", "all")) == wanted
    ]
    if len(found) != 1:
        return dotted
    return f"losses.{found[0]}.{dotted if dotted in _EXPONENT else 'coeff'}"


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
