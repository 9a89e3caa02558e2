"""Text as one long row of tokens: windows to train on, and the held-out part to be measured by."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from microtome.core.errors import MicrotomeError
from microtome.data.text_sources import documents
from microtome.training.language_config import LanguageModelTrainConfig


@dataclass(frozen=True)
class TextSplit:
    """The texts of a source, told apart into those to train on and those held out."""

    train: list[str]
    held_out: list[str]


@dataclass(frozen=True)
class TokenData:
    """Both parts as tokens, each text followed by the end-of-text token."""

    train: Int[Tensor, " N"]
    held_out: Int[Tensor, " M"]
    held_out_bytes: int

    def windows(self, n: int, length: int, draws: torch.Generator) -> Int[Tensor, "n length"]:
        """``n`` stretches of the training text, from places drawn with ``draws``."""
        starts = torch.randint(0, len(self.train) - length + 1, (n,), generator=draws)
        return self.train[starts[:, None] + torch.arange(length)]

    def fingerprint(self) -> str:
        """SHA-256 of all tokens: a resumed run must see the text it began with."""
        return hashlib.sha256(torch.cat([self.train, self.held_out]).numpy().tobytes()).hexdigest()


def read_split(config: LanguageModelTrainConfig) -> TextSplit:
    """The texts of ``config.dataset``. Raises ``MicrotomeError`` when a part is empty."""
    train = [text for text in _documents(config, "train") if text.strip()]
    held_out = [text for text in _documents(config, "test") if text.strip()]
    for part, texts in (("train on", train), ("hold out", held_out)):
        if not texts:
            raise MicrotomeError(f"dataset={config.dataset!r}: no text to {part}; give a longer text")
    return TextSplit(train, held_out)


def _documents(config: LanguageModelTrainConfig, split: str) -> list[str]:
    return documents(config.dataset, text_field=config.text_field, split=split)


def tokens_of(split: TextSplit, tokenizer: Any, context_length: int) -> TokenData:
    """Both parts through a ``tokenizers.Tokenizer``. Raises ``MicrotomeError`` for too short a text."""
    data = TokenData(
        _row(split.train, tokenizer),
        _row(split.held_out, tokenizer),
        sum(len(text.encode()) for text in split.held_out),
    )
    for part, row in (("training", data.train), ("held-out", data.held_out)):
        if len(row) < context_length:
            raise MicrotomeError(
                f"context_length={context_length}: the {part} text has only {len(row)} tokens; lower it, or"
                " give more text"
            )
    return data


def _row(texts: Sequence[str], tokenizer: Any) -> Tensor:
    end = 0  # train_tokenizer makes the end of a text token 0
    rows = [[*encoded.ids, end] for encoded in tokenizer.encode_batch(list(texts))]
    return torch.from_numpy(np.concatenate([np.asarray(row, dtype=np.int64) for row in rows]))


def unigram_loss(data: TokenData, vocab_size: int) -> float:
    """Held-out loss, nats a token, of knowing only how often each training token comes (one added to all)."""
    counts = torch.bincount(data.train, minlength=vocab_size).double() + 1
    return float(-(counts / counts.sum()).log()[data.held_out].mean())
