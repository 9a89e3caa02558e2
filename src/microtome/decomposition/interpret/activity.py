"""How often components are on, how many at a time, and which of them together."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from microtome.decomposition.interpret.selection import own_masks
from microtome.decomposition.interpret.subject import Subject


def activity(s: Subject) -> dict[str, np.ndarray]:
    """Statistics over inputs as in training; APD has one set, ``all``, for every site together.

    ``frequency/<site>`` and ``mean/<site> [K, C]``: share of the inputs on which a component is on (SPD:
    causal importance above ``ci_threshold``) and its mean mask. ``count/<site> [K, B]``: how many are on;
    toy models also ``features_on [K, B]``. ``correlation/<site> [K, C, C]``: of the masks over inputs (what
    leaks below 0 counts as 0), nan for components that never change (the APD code's
    ``subnetwork_correlation_matrix``).
    """
    x = s.inputs("activity")
    masks = own_masks(s, x)
    if s.d.method == "apd":
        masks = {"all": next(iter(masks.values()))}
    threshold = s.config.ci_threshold if s.d.method == "spd" else 0.5
    arrays: dict[str, np.ndarray] = {}
    for name, mask in masks.items():
        on = mask > threshold
        arrays[f"frequency/{name}"] = on.float().mean(dim=1).cpu().numpy()
        arrays[f"mean/{name}"] = mask.clamp(0, 1).mean(dim=1).cpu().numpy()
        arrays[f"count/{name}"] = on.sum(dim=-1).to(torch.int32).cpu().numpy()
        arrays[f"correlation/{name}"] = np.stack([correlations(one.clamp(min=0)) for one in mask])
    if s.toy is not None:
        arrays["features_on"] = (x != 0).sum(dim=-1).to(torch.int32).cpu().numpy()
    return arrays


def correlations(values: Float[Tensor, "B C"]) -> Float[np.ndarray, "C C"]:
    """Pearson correlations of the columns, in float32; nan for columns that do not vary."""
    centred = values.double() - values.double().mean(dim=0)
    length = centred.norm(dim=0)
    constant = length < 1e-9 * max(len(values), 1) ** 0.5
    directions = centred / torch.where(constant, torch.ones_like(length), length)
    found = (directions.T @ directions).clamp(-1, 1)
    found[constant] = torch.nan
    found[:, constant] = torch.nan
    return found.float().cpu().numpy()
