"""Dictionaries of one layer of several networks, on the same images and places, and what they are worth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from microtome.comparison.activations import Activations
from microtome.comparison.features_config import FeaturesConfig
from microtome.core.seeds import generator
from microtome.dictionaries.dictionary import Dictionary
from microtome.dictionaries.quality import Quality, nearest_decoder_cosine
from microtome.dictionaries.together import fit_together
from microtome.dictionaries.train_config import DictionaryTraining

FEWEST_CHANNELS = 4
EPOCHS, FEWEST_STEPS = 20, 100  # few vectors are not gone through for ever


@dataclass(frozen=True)
class LayerRows:
    """Channel vectors of one layer of every network.

    ``image``: where a row is from; ``held_out``: rows that are not trained on.
    """

    rows: dict[str, Float[Tensor, "m _"]]
    image: Int[Tensor, " m"]
    held_out: Bool[Tensor, " m"]


@dataclass(frozen=True)
class TrainedDictionary:
    """A dictionary of one network, its features of all rows, and its worth.

    ``explained``: input values whose mean is the explained variance, one a held-out image.
    """

    dictionary: Dictionary
    features: Float[Tensor, "m F"]
    fvu: Float[np.ndarray, " steps"]
    quality: Quality
    explained: Float[np.ndarray, " images"]

    @property
    def alive(self) -> Bool[np.ndarray, " F"]:
        """Which features ever act."""
        return (self.features > 0).any(0).numpy()

    @property
    def density(self) -> Float[np.ndarray, " F"]:
        """Share of rows on which each feature acts."""
        return (self.features > 0).float().mean(0).numpy()


def layer_rows(
    label: str, networks: Mapping[str, Activations], settings: FeaturesConfig, seed: int
) -> LayerRows:
    """The same sampled images and places of one layer in all networks, after its nonlinearity."""
    each = min(found.positions_per_image(label) for found in networks.values())
    rows: dict[str, Tensor] = {}
    image = torch.empty(0, dtype=torch.long)
    for name, found in networks.items():
        sampled = found.positions(
            label, "post", settings.max_rows, generator(seed, stream=f"positions {label}"), each
        )
        rows[name], image = sampled.rows.float(), sampled.images
    n = next(iter(networks.values())).n
    order = torch.randperm(n, generator=generator(seed, stream="held out"))
    out = torch.zeros(n, dtype=torch.bool)
    out[order[: max(round(n * settings.held_out), 1)]] = True
    return LayerRows(rows, image, out[image])


def training_of(width: int, n_rows: int, settings: FeaturesConfig, inputs: int = 1) -> DictionaryTraining:
    """Size and schedule of a dictionary of ``width`` channels (of each of ``inputs`` models)."""
    n_features = max(min(settings.expansion * width, settings.max_features, n_rows // 4), 4)
    k = max(min(settings.k, width // 4, n_features // 4), 1)
    return DictionaryTraining(
        architecture="topk",
        n_features=n_features * inputs,
        k=k,
        steps=min(settings.steps, max(EPOCHS * n_rows // settings.batch_size, FEWEST_STEPS)),
        batch_size=min(settings.batch_size, n_rows),
        device="cpu",
    )


def train_all(
    data: LayerRows, jobs: Sequence[tuple[str, int]], settings: FeaturesConfig
) -> dict[tuple[str, int], TrainedDictionary]:
    """One dictionary for every (network, dictionary seed), those of equal width side by side."""
    found: dict[tuple[str, int], TrainedDictionary] = {}
    learned = ~data.held_out
    for width in sorted({data.rows[name].shape[1] for name, _ in jobs}):
        own = [job for job in jobs if data.rows[job[0]].shape[1] == width]
        training = training_of(width, int(learned.sum()), settings)
        trained = fit_together(
            [data.rows[name][learned] for name, _ in own], training, [seed for _, seed in own]
        )
        for i, job in enumerate(own):
            found[job] = judged(data, job[0], trained.dictionaries[i], trained.fvu[i].numpy())
    return found


@torch.no_grad()
def judged(
    data: LayerRows, name: str, dictionary: Dictionary, fvu: Float[np.ndarray, " steps"]
) -> TrainedDictionary:
    """Features of all rows, and the numbers on the held-out ones, beside as many principal components."""
    x, out = data.rows[name], data.held_out
    f = dictionary.encode(x)
    held, x_hat = x[out], dictionary.decode(f[out])
    errors, explained = explained_by_image(held, x_hat, data.image[out])
    l0 = float((f[out] > 0).sum(1).float().mean())
    rank = min(round(l0), x.shape[1])
    dead = int((~(f > 0).any(0)).sum())
    total = float((held - held.mean(0)).double().square().sum())
    share = float(errors.sum()) / total if total > 0 else 0.0
    quality = Quality(
        n_inputs=int(out.sum()),
        d_in=x.shape[1],
        n_features=f.shape[1],
        l0=l0,
        fvu=share,
        explained_variance=1 - share,
        cosine=float(torch.cosine_similarity(held, x_hat).mean()),
        length_ratio=float(x_hat.norm(dim=1).mean() / held.norm(dim=1).mean().clamp_min(1e-12)),
        dead=dead,
        dead_share=dead / f.shape[1],
        pca_rank=rank,
        pca_fvu=components_fvu(x[~out], held, rank) if rank < x.shape[1] else None,
        nearest_decoder_cosine=nearest_decoder_cosine(dictionary.W_dec),
    )
    return TrainedDictionary(dictionary, f, fvu, quality, explained)


def explained_by_image(
    x: Float[Tensor, "m d"], x_hat: Float[Tensor, "m d"], image: Int[Tensor, " m"]
) -> tuple[Float[Tensor, " m"], Float[np.ndarray, " images"]]:
    """Squared error of every row, and input values of the explained variance, one an image."""
    errors = (x - x_hat).double().square().sum(1)
    total = float((x - x.mean(0)).double().square().sum())
    _, place = image.unique(return_inverse=True)
    own = torch.zeros(int(place.max()) + 1, dtype=torch.float64).index_add_(0, place, errors)
    return errors, (1 - own * len(own) / max(total, 1e-30)).numpy()


def components_fvu(fitted: Float[Tensor, "n d"], held: Float[Tensor, "m d"], rank: int) -> float:
    """What ``rank`` principal components of the fitted rows leave of the held-out rows' variance."""
    mean = fitted.mean(0)
    centred = (fitted - mean).double()
    if centred.shape[0] < centred.shape[1]:  # from the smaller Gram matrix
        values, vectors = torch.linalg.eigh(centred @ centred.T)
        components = centred.T @ vectors[:, -rank:] / values[-rank:].clamp_min(1e-12).sqrt() if rank else None
    else:
        components = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -rank:] if rank else None
    x = (held - mean).double()
    left = x if components is None else x - (x @ components) @ components.T
    total = (held - held.mean(0)).double().square().sum().clamp_min(1e-30)
    return float(left.square().sum() / total)
