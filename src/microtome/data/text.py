"""Texts from many sources, and tokens in batches of like length."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from microtome.core.errors import MicrotomeError, bad_value
from microtome.data.text_sources import texts_in

TOKENIZED_AT_ONCE = 1000


def read_texts(
    source: str = "builtin",
    *,
    text_field: str | None = None,
    split: str = "train",
    min_chars: int = 50,
    limit: int | None = None,
) -> list[str]:
    """Texts of more than ``min_chars`` characters (spaces at the ends not counted), the first ``limit``.

    ``source``: ``builtin`` (paragraphs of the topics in Python's own documentation, `pydoc_data.topics`), a
    .txt (paragraphs), .jsonl, .json, .csv or .parquet file, a folder of those, a folder of
    ``datasets.save_to_disk``, or a dataset name on the Hugging Face hub (``wikitext`` is wikitext-2-raw-v1;
    ``name:config`` picks a configuration). ``text_field`` names the column; left out, ``text`` or the only
    one with text. ``split``: for datasets theirs; otherwise every tenth topic or text is held out:
    ``train`` leaves it out, ``test`` is only those, ``all`` is everything. Raises ``MicrotomeError``.
    """
    if limit is not None and limit < 1:
        raise bad_value("limit", limit, "must be at least 1", "leave it out for all texts")
    found = (text for text in texts_in(source, text_field, split) if len(text.strip()) > min_chars)
    texts = list(islice(found, limit))
    if not texts:
        raise MicrotomeError(
            f"{source}: no text of more than {min_chars} characters in split {split!r}; give other text,"
            " or lower the least number of characters"
        )
    return texts


@dataclass
class TokenBatch:
    """Tokens of a few texts, padded on the right to the longest of them."""

    input_ids: Int[Tensor, "B T"]
    attention_mask: Int[Tensor, "B T"]
    index: list[int]
    """Positions of the texts in the list they came from."""


def token_batches(
    texts: Sequence[str],
    tokenizer: Any,
    *,
    max_length: int,
    batch_size: int,
    sort: bool = True,
    add_special_tokens: bool = True,
) -> Iterator[TokenBatch]:
    """Batches of tokenized texts, each cut after ``max_length`` tokens.

    With ``sort`` texts of like length share a batch, longest first, so that little is padded and a batch that
    does not fit memory shows at once. Texts without a token are left out. int64 ids, the mask 1 on real
    tokens. Raises ``MicrotomeError``.
    """
    for field, value in (("max_length", max_length), ("batch_size", batch_size)):
        if value < 1:
            raise bad_value(field, value, "must be at least 1", "raise it")
    ids = tokenize(texts, tokenizer, max_length, add_special_tokens)
    order = [position for position, row in enumerate(ids) if len(row)]
    if not order:
        raise MicrotomeError("the texts hold no token; give other text")
    if sort:
        order.sort(key=lambda position: (-len(ids[position]), position))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    for start in range(0, len(order), batch_size):
        index = order[start : start + batch_size]
        yield _padded([ids[position] for position in index], index, pad)


def tokenize(
    texts: Sequence[str], tokenizer: Any, max_length: int | None = None, add_special_tokens: bool = True
) -> list[np.ndarray]:
    """The token ids of each text, as int32 arrays, cut after ``max_length`` tokens."""
    rows: list[np.ndarray] = []
    for start in range(0, len(texts), TOKENIZED_AT_ONCE):
        encoded = tokenizer(
            list(texts[start : start + TOKENIZED_AT_ONCE]),
            add_special_tokens=add_special_tokens,
            truncation=max_length is not None,
            max_length=max_length,
            return_attention_mask=False,
        )
        rows += [np.asarray(row, dtype=np.int32) for row in encoded["input_ids"]]
    return rows


def _padded(rows: Sequence[np.ndarray], index: list[int], pad: int) -> TokenBatch:
    length = max(map(len, rows))
    ids = np.full((len(rows), length), pad, dtype=np.int64)
    mask = np.zeros((len(rows), length), dtype=np.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
        mask[place, : len(row)] = 1
    return TokenBatch(torch.from_numpy(ids), torch.from_numpy(mask), list(index))
