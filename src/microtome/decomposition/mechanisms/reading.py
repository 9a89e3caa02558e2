"""What the components of one network say of a batch of inputs: activations and causal importances."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from jaxtyping import Float, Int
from torch import Tensor

from microtome.core.errors import MicrotomeError, bad_value
from microtome.core.progress import progress as show_progress
from microtome.data.loading import DataSource
from microtome.decomposition.causal_importance.sigmoids import sigmoid_pair
from microtome.decomposition.evaluation.inputs import batches as evaluation_batches
from microtome.decomposition.evaluation.inputs import inputs_of, sizes
from microtome.decomposition.mechanisms.config import ReadingConfig
from microtome.decomposition.result import Decomposition
from microtome.targets.network import times

WINDOWS, ROWS = 16, 256  # of text, and of what is no text, in a batch


def one_instance(d: Decomposition, instance: int) -> Decomposition:
    """The decomposition of one network: K = 1. Raises ``MicrotomeError`` for one that is not there."""
    if instance >= d.n_instances:
        raise bad_value(
            "instance", instance, f"the run holds {d.n_instances}", f"use 0 to {d.n_instances - 1}"
        )
    if d.method != "spd":
        raise MicrotomeError(
            f"{d.method.upper()} components have no causal importances to read; decompose with method: spd"
        )
    if d.n_instances == 1:
        return d
    return Decomposition(
        d.config,
        d.target.select([instance]),
        {name: tensor[instance : instance + 1] for name, tensor in d.parameters.items()},
        d.data,
        d.run,
        sites=list(d.sites),
        sigmoid_type=d.sigmoid_type,
        name=d.name,
        source=d.source,
        notes=d.notes,
    )


def chosen(d: Decomposition, patterns: Sequence[str]) -> list[str]:
    """The decomposition's sites that match, in order. Raises ``MicrotomeError`` listing those there are."""
    for pattern in patterns:
        if not any(fnmatchcase(site, pattern) for site in d.sites):
            raise bad_value("sites", pattern, "matches no site", f"there are: {', '.join(d.sites)}")
    return [site for site in d.sites if any(fnmatchcase(site, pattern) for pattern in patterns)]


def device_of(d: Decomposition) -> torch.device:
    """Where the components are."""
    return next(iter(d.parameters.values())).device


def labelled_batches(
    d: Decomposition, data: DataSource | Tensor | None, config: ReadingConfig, progress: str = ""
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Batches of inputs ``[1, B, ...]``, the same ones for the same seed, and their labels ``[B, ...]``.

    Of the run: those held out from its training, where there are such. Of a fixed set each input comes once
    at most. ``progress`` names a line that tells how far it is. Raises ``MicrotomeError`` where the inputs
    are not known.
    """
    device = device_of(d)
    source, _ = inputs_of(d, data, device)
    n, size = sizes(source, config.n_batches, config.batch_size or _batch_size(source))
    with show_progress(progress, n, enabled=bool(progress)) as bar:
        stream = evaluation_batches(source, n, size, 1, config.seed, device)
        for i, (x, labels) in enumerate(stream):
            yield x, None if labels is None else labels[0]
            bar.update(i + 1)


def _batch_size(source: DataSource) -> int:
    return WINDOWS if source.spec().get("kind") in ("token_windows", "induction") else ROWS


def batches(
    d: Decomposition, data: DataSource | Tensor | None, config: ReadingConfig, progress: str = ""
) -> Iterator[Tensor]:
    """The inputs of ``labelled_batches``."""
    return (x for x, _ in labelled_batches(d, data, config, progress))


def is_text(x: Tensor) -> bool:
    """Whether a batch ``[1, B, T]`` holds token ids."""
    return not x.is_floating_point() and x.ndim == 3


@dataclass(frozen=True)
class Reading:
    """A batch as its components see it, P = B x T positions (T = 1 for what is no text)."""

    x: Tensor
    """``[1, B, ...]``"""
    output: Tensor
    """The target's own, ``[B, ...]``."""
    importance: dict[str, Float[Tensor, "B T C"]]
    """Causal importances in [0, 1]."""
    activation: dict[str, Float[Tensor, "B T C"]]
    """Inner activations."""

    @property
    def tokens(self) -> Int[Tensor, "B T"]:
        """The token ids."""
        assert is_text(self.x)
        return self.x[0]

    def rows(self, site: str) -> Float[Tensor, "P C"]:
        """Causal importances, a row a position."""
        return self.importance[site].flatten(0, 1)


@torch.no_grad()
def importances(
    d: Decomposition, x: Tensor
) -> tuple[Tensor, dict[str, list[Float[Tensor, "K *B C"]]], dict[str, list[Float[Tensor, "K *B C"]]]]:
    """The target's output, and for every call of every site causal importances and inner activations."""
    functions = d.importance_functions
    assert functions is not None
    output, inputs = d.masked_network.record(x)
    inner = {name: [times(a, d.joined[name][0]) for a in calls] for name, calls in inputs.items()}
    lower, _ = sigmoid_pair(d.sigmoid_type)
    gates = functions(inputs, inner)
    return output, {s: [lower(g).clamp(0.0, 1.0) for g in calls] for s, calls in gates.items()}, inner


@torch.no_grad()
def read(d: Decomposition, x: Tensor, sites: Sequence[str]) -> Reading:
    """Causal importances and inner activations of a batch, at the sites named.

    Where a site runs several times in a pass, and where a network that reads no text has positions (patches
    of an image), a component is as important as at the most important of them.
    """
    output, lower, inner = importances(d, x)
    n, text = x.shape[1], is_text(x)
    importance, activation = {}, {}
    for site in sites:
        ci = torch.stack([_by_place(g, n) for g in lower[site]])
        h = torch.stack([_by_place(a, n) for a in inner[site]])
        ci, h = _most_important(ci, h, 0)
        if not text and ci.shape[1] > 1:
            ci, h = (part.unsqueeze(1) for part in _most_important(ci, h, 1))
        importance[site], activation[site] = ci, h
    return Reading(x, output[0], importance, activation)


def _by_place(values: Tensor, n: int) -> Float[Tensor, "B T C"]:
    return values[0].reshape(n, -1, values.shape[-1])


def _most_important(importance: Tensor, activation: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    if importance.shape[axis] == 1:
        return importance.squeeze(axis), activation.squeeze(axis)
    where = importance.argmax(axis, keepdim=True)
    return importance.gather(axis, where).squeeze(axis), activation.gather(axis, where).squeeze(axis)
