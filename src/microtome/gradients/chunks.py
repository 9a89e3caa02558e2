"""The samples of a run in batches, and the batches in chunks that memory holds."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from microtome.core.distributed import Processes, share
from microtome.core.errors import MicrotomeError, bad_value
from microtome.data.text import TokenBatch, token_batches
from microtome.targets.language_model import LanguageModel


def batches_of(
    texts: Sequence[str],
    lm: LanguageModel,
    *,
    max_length: int,
    batch_size: int,
    processes: Processes = Processes(),  # noqa: B008  (frozen)
    as_original: bool = False,
) -> list[TokenBatch]:
    """This process' batches; ``index`` counts through all ``texts``.

    ``as_original`` keeps the order of the texts and pads every batch to ``max_length``. Raises
    ``MicrotomeError`` when ``max_length`` is beyond the model's context, and for texts without tokens.
    """
    if max_length > lm.context_length:
        mend = f"choose at most {lm.context_length}"
        raise bad_value("max_length", max_length, f"{lm.name} reads {lm.context_length} tokens", mend)
    if not any(text.strip() for text in texts):
        raise MicrotomeError("the texts are empty; give texts with words in them")
    own = share(range(len(texts)), processes)
    if not own:
        return []
    chosen = [texts[i] for i in own]
    batches = []
    for batch in token_batches(
        chosen, lm.tokenizer, max_length=max_length, batch_size=batch_size, sort=not as_original
    ):
        index = [own[i] for i in batch.index]
        ids, mask = batch.input_ids, batch.attention_mask
        if as_original:
            ids, mask = _padded(ids, max_length, pad_id(lm.tokenizer)), _padded(mask, max_length, 0)
        batches.append(TokenBatch(ids, mask, index))
    return batches


def chunked(batches: Sequence[TokenBatch], max_tokens: int) -> Iterator[list[TokenBatch]]:
    """Runs of batches with at most ``max_tokens`` real tokens together, at least one batch each."""
    chunk: list[TokenBatch] = []
    held = 0
    for batch in batches:
        tokens = int(batch.attention_mask.sum())
        if chunk and held + tokens > max_tokens:
            yield chunk
            chunk, held = [], 0
        chunk.append(batch)
        held += tokens
    if chunk:
        yield chunk


def special_ids(tokenizer: Any) -> set[int]:
    """Ids of the tokens that frame a text rather than stand in it."""
    return {int(i) for i in getattr(tokenizer, "all_special_ids", ()) if i is not None}


def pad_id(tokenizer: Any) -> int:
    """The id that fills up short samples."""
    return 0 if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)


def _padded(values: torch.Tensor, width: int, filler: int) -> torch.Tensor:
    return torch.nn.functional.pad(values, (0, width - values.shape[1]), value=filler)
