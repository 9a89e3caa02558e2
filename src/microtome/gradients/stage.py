"""From activations and their gradients to sums: what one layer adds for the positions of a chunk.

A pure function of (activations, gradients, dictionary). Raw activations are the case of no dictionary.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from microtome.dictionaries.dictionary import normalised
from microtome.gradients.active_pairs import ActivePairs, FeatureSource, active_pairs
from microtome.gradients.layer_sums import LayerSums
from microtome.gradients.positions import Positions

# Gradients of features that stand in memory at a time: 8 MB in fp32, which caches hold; GPUs want more.
BLOCK_ENTRIES, BLOCK_ENTRIES_GPU = 2**21, 2**26


def add_activations(
    sums: LayerSums, x: Float[Tensor, "N d"], g: Float[Tensor, "N d"], positions: Positions
) -> None:
    """Add raw activations ``x`` and the loss's gradients ``g`` by them."""
    x, g = _accumulated(x), _accumulated(g)
    members = positions.members(g)
    quantities = {"gradients": g, "attribution": x * g, "values": x}
    for name, values in quantities.items():
        if name in sums.moments:
            sums.moments[name].count(positions.lengths)
            signed, absolute = (_scaled(members @ v, positions) for v in (values, values.abs()))
            sums.moments[name].add(signed, absolute, positions.lengths)
    sums.active += (x != 0).sum(0).double().cpu()
    sums.mass.add(g.norm(dim=1))
    k = min(sums.top.k, len(g))
    if k:
        # Only the strongest positions of this batch can be among the strongest of all.
        row = quantities["attribution"].abs().topk(k, dim=0).indices
        feature = torch.arange(g.shape[1], device=g.device).expand(k, -1)
        values = quantities["attribution"].gather(0, row).flatten()
        _offer(sums, feature.flatten(), values, row.flatten(), positions)


def add_features(
    sums: LayerSums,
    x: Float[Tensor, "N d_x"],
    g: Float[Tensor, "N d"],
    positions: Positions,
    dictionary: FeatureSource,
    dtype: torch.dtype = torch.float32,
    magnitudes: bool = True,
) -> None:
    """Add the features of ``x``; their gradients follow from ``g`` through the decoder: ``g @ W_dec.T``.

    That is the gradient where the reconstruction and its error term stand in for ``x``. What is summed is
    what ``sums`` holds. ``magnitudes``: also the absolute values of the gradients of all features, which take
    one product of all positions with the whole decoder, in ``dtype``; the signed sums take one of each
    sample's sum. The other quantities only exist where a feature acts; without them ``x`` may be ``[N, 0]``.
    """
    scale = None
    if dictionary.config.normalisation != "none":
        scale = normalised(_accumulated(x), dictionary.config)[2]
    sums.mass.add(g.float().norm(dim=1))
    if scale is not None:  # x_hat is scale * (f @ W_dec) + ..., so that a feature's direction is scaled
        g = (g * scale).to(g.dtype)
    pairs = None
    if any(name in sums.moments for name in ("active_gradients", "attribution", "values")):
        pairs = active_pairs(dictionary, x, dtype)
    dense = magnitudes and "gradients" in sums.moments
    by_pair = torch.empty(0) if pairs is None else torch.empty_like(pairs.value)
    summed = _scaled(positions.members(_accumulated(g)) @ _accumulated(g), positions)  # [G, d]
    members = positions.members(g.to(dtype))
    for moments in sums.moments.values():
        moments.count(positions.lengths)
    entries = BLOCK_ENTRIES if g.device.type == "cpu" else BLOCK_ENTRIES_GPU
    n, block = dictionary.config.n_features, max(entries // max(len(g), 1), 256)
    for start in range(0, n, block):
        stop = min(start + block, n)
        decoder = dictionary.decoder_rows(start, stop).to(g.device)
        product = g.to(dtype) @ decoder.to(dtype).T if dense else None
        if pairs is not None:
            here = pairs.between(start, stop)
            by_pair[here] = _gradient_of_pairs(pairs, here, start, decoder, g, product)
        if "gradients" in sums.moments:
            signed = summed @ decoder.to(summed.dtype).T
            absolute = None
            if product is not None:
                absolute = _scaled(_accumulated(members @ product.abs_()), positions)
            sums.moments["gradients"].add(signed, absolute, positions.lengths, start)
    if pairs is not None:
        _add_active(sums, pairs, by_pair, positions)


def _gradient_of_pairs(
    pairs: ActivePairs, here: slice, start: int, decoder: Tensor, g: Tensor, product: Tensor | None
) -> Tensor:
    """``g[row] . W_dec[feature]`` of the pairs of one block, from the product where there is one."""
    row, feature = pairs.row[here], pairs.feature[here] - start
    if product is not None:
        return product[row, feature].to(pairs.value.dtype)
    parts = [
        torch.einsum("pd,pd->p", _accumulated(g[r]), _accumulated(decoder[f]))
        for r, f in zip(row.split(8192), feature.split(8192), strict=True)
    ]
    return torch.cat(parts).to(pairs.value.dtype) if parts else pairs.value[here]


def _add_active(sums: LayerSums, pairs: ActivePairs, gradient: Tensor, positions: Positions) -> None:
    """Add what exists only where a feature acts."""
    group, n_groups = positions.group.to(pairs.row.device)[pairs.row], len(positions.lengths)
    # (feature, sample) pairs, each once: a sample's sum needs all its positions.
    key, place = torch.unique(pairs.feature * n_groups + group, return_inverse=True)
    feature, group = key // n_groups, key % n_groups
    lengths = positions.lengths.to(key.device)[group]
    factor = None if positions.scale is None else positions.scale.to(key.device)[group]
    attribution = pairs.value * gradient
    quantities = {"active_gradients": gradient, "attribution": attribution, "values": pairs.value}
    for name, values in quantities.items():
        if name not in sums.moments:
            continue
        both = torch.zeros(2, len(key), dtype=torch.float64, device=key.device)
        both.index_add_(1, place, torch.stack([values, values.abs()]).double())
        signed, absolute = both if factor is None else both * factor
        sums.moments[name].add_pairs(feature, lengths, signed, absolute)
    sums.active += torch.bincount(pairs.feature, minlength=sums.width).double().cpu()
    _offer(sums, pairs.feature, attribution, pairs.row, positions)


def _offer(sums: LayerSums, feature: Tensor, values: Tensor, row: Tensor, positions: Positions) -> None:
    row = row.cpu()
    sums.top.add(feature.cpu(), values.cpu(), positions.text[row], positions.place[row])


def _scaled(sums: Float[Tensor, "G w"], positions: Positions) -> Float[Tensor, "G w"]:
    return sums if positions.scale is None else sums * positions.scale.to(sums)[:, None]


def _accumulated(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
