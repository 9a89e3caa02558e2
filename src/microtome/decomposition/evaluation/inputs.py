"""What an evaluation runs on: inputs that the training has not seen, with the truth where it is known."""

from collections.abc import Iterator

import torch
from jaxtyping import Shaped
from torch import Tensor

from microtome.core.device import say as note
from microtome.core.errors import CannotLoad, MicrotomeError
from microtome.core.seeds import generator
from microtome.data.images import ArrayData, digits
from microtome.data.induction import InductionSequences
from microtome.data.loading import DataSource, data_from_spec, held_out_from_spec
from microtome.data.sparse_features import SparseFeatures
from microtome.decomposition.evaluation.output_errors import NO_LABEL, next_tokens
from microtome.decomposition.inputs_fit import try_out
from microtome.decomposition.result import Decomposition

Labelled = tuple[Tensor, Tensor | None]


def inputs_of(
    d: Decomposition, data: DataSource | Shaped[Tensor, "n *d"] | None, device: torch.device
) -> tuple[DataSource, str]:
    """The inputs to measure on, and what they are: held out where the training's were drawn from a fixed set.

    Raises ``MicrotomeError`` where the files do not tell them and none are given, and for given ones that the
    network cannot run on.
    """
    if data is not None:
        given = isinstance(data, Tensor)
        source = ArrayData(data.to(device)) if given else data
        few = source.batch(2, generator(0, device), n_instances=d.n_instances).to(device)
        try_out(d.target, few)
        return source, "inputs that were handed over" if given else _words(source)
    spec = d.data
    if spec is None:
        raise MicrotomeError(f"{d.name}: the run's inputs are not known; pass data=... in Python")
    if spec.get("kind") == "token_windows":
        return _text(d, device)
    if spec.get("kind") == "digits":
        half = digits().test
        return ArrayData(
            half.x.to(device), _moved(half.y, device), half.source
        ), "digits held out from the training"
    try:
        source = data_from_spec(spec, device)
    except CannotLoad as problem:
        raise CannotLoad(f"{d.name}: {problem}") from None
    return source, _words(source)


def sizes(source: DataSource, n: int, size: int) -> tuple[int, int]:
    """How many batches of how many inputs there are: of a fixed set each input is used once at most."""
    if not isinstance(source, ArrayData):
        return n, size
    n = min(n, len(source.x))
    return n, min(size, len(source.x) // n)


def batches(
    source: DataSource, n: int, size: int, n_instances: int, seed: int, device: torch.device
) -> Iterator[Labelled]:
    """``n`` batches ``[K, size, ...]``, each with labels (-100 where there is none) or None.

    Token numbers are labelled by the token that follows (of repeating sequences where it can be known);
    other inputs by their class, where it is known. A fixed set is gone through in random order, so that
    batches share no input: see ``sizes``.
    """
    draws = generator(seed, device, "evaluation inputs")
    if isinstance(source, ArrayData):
        order = torch.randperm(len(source.x), generator=draws, device=device).to(source.x.device)
        for rows in order[: n * size].split(size):
            y = None if source.y is None else source.y[rows].to(device).expand(n_instances, -1)
            yield source.x[rows].to(device).expand(n_instances, *source.x[rows].shape), y
        return
    for _ in range(n):
        x = source.batch(size, draws, n_instances=n_instances).to(device)
        if isinstance(source, InductionSequences):
            yield x, source.next_tokens(x).masked_fill(~source.predictable(x), NO_LABEL)
        else:
            yield x, None if x.is_floating_point() or x.ndim != 3 else next_tokens(x)


def _text(d: Decomposition, device: torch.device) -> tuple[DataSource, str]:
    assert d.data is not None
    tokenizer = getattr(d.target, "tokenizer", None)
    splits = (d.data.get("split"), d.data.get("held_out_split"))
    seen = splits[0] == splits[1] or "all" in splits
    what = "text that it was trained on among it" if seen else "text held out from the training"
    try:
        return held_out_from_spec(d.data, device, tokenizer), what
    except MicrotomeError as problem:
        note(f"{problem}; measuring on the text that was trained on")
        return data_from_spec(d.data, device, tokenizer), "the text that it was trained on"


def _moved(y: Tensor | None, device: torch.device) -> Tensor | None:
    return None if y is None else y.to(device)


def _words(source: DataSource) -> str:
    if isinstance(source, SparseFeatures | InductionSequences):
        return "fresh inputs, drawn as in training"
    spec = source.spec()
    if spec.get("split") not in (None, "train"):
        return f"inputs of the split {spec['split']}"
    return "the inputs that it was trained on"
