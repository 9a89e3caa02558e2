"""Text as windows of tokens for decomposing language models: in memory, or streamed with its place saved."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from microtome.core.errors import CannotLoad, MicrotomeError, bad_value
from microtome.data.text import tokenize
from microtome.data.text_sources import open_documents

AT_ONCE = 500  # documents through the tokenizer


@dataclass(frozen=True)
class TextChoice:
    """Which text, and how it is cut into windows. JSON-able through ``asdict``."""

    dataset: str
    context_length: int
    text_field: str | None = None
    """The column with the text, or with token ids where ``is_tokenized``."""
    split: str = "train"
    held_out_split: str = "test"
    streaming: bool = False
    """Read as it goes instead of first; the whole text never has to fit memory."""
    buffer_size: int = 1000
    """Windows of a stream to draw from at random."""
    is_tokenized: bool = False
    """The rows hold token ids already."""

    def __post_init__(self) -> None:
        for field in ("context_length", "buffer_size"):
            if getattr(self, field) < 1:
                raise bad_value(field, getattr(self, field), "must be at least 1", "raise it")

    def held_out(self) -> "TextChoice":
        """The text that is measured on."""
        return replace(self, split=self.held_out_split)

    def absolute(self) -> "TextChoice":
        """The same text named so that it is found from any working folder."""
        try:
            path = Path(self.dataset).expanduser()
            if self.dataset.strip() and path.exists():
                return replace(self, dataset=str(path.resolve()))
        except (OSError, RuntimeError):
            pass  # too long for a path, or of an unknown user
        return self


class TokenWindows:
    """Batches ``[K, B, T]`` of windows of ``context_length`` tokens; the K instances see the same ones.

    Documents follow each other with the tokenizer's end-of-text token between them. In memory, windows start
    anywhere; streamed, they come in order through a buffer that is drawn from at random, and the stream
    begins anew when it ends. A stream has one reader: ``state_tensors`` is its place. Raises
    ``MicrotomeError`` for an empty text, one shorter than a window, and tokens that an embedding of
    ``vocab_size`` rows does not hold.
    """

    def __init__(
        self,
        choice: TextChoice,
        tokenizer: Any,
        *,
        vocab_size: int | None = None,
        device: str | torch.device = "cpu",
        kept: int | None = None,
    ) -> None:
        """``kept``: hold this many windows' tokens, the first ones, in memory, a stream's too."""
        self.choice = choice.absolute()
        self.tokenizer, self.vocab_size, self.device = tokenizer, vocab_size, torch.device(device)
        if vocab_size is not None:
            check_vocabulary(tokenizer, vocab_size)
        self._documents = open_documents(
            choice.dataset, choice.text_field, choice.split, choice.streaming, choice.is_tokenized
        )
        streams = choice.streaming and kept is None
        self.stream = _Stream(self._documents, self._pieces, choice) if streams else None
        self.row: Int[Tensor, " N"] | None = None
        if self.stream is None:
            row = self._row(None if kept is None else kept * choice.context_length)
            _check_length(len(row), choice)
            self.row = torch.from_numpy(row).to(self.device)
        else:
            self.stream.fill()

    def batch(
        self, batch_size: int, generator: torch.Generator | None = None, n_instances: int = 1
    ) -> Int[Tensor, "K B T"]:
        """``batch_size`` windows; int64."""
        length = self.choice.context_length
        if self.row is not None:
            at = generator.device if generator is not None else self.device
            last = len(self.row) - length + 1
            starts = torch.randint(last, (batch_size, 1), generator=generator, device=at).to(self.device)
            ids = self.row[starts + torch.arange(length, device=self.device)]
        else:
            assert self.stream is not None
            ids = self.stream.draw(batch_size, generator).to(self.device)
        return ids.long().unsqueeze(0).expand(n_instances, -1, -1)

    def spec(self) -> dict[str, Any]:
        """Everything but the tokenizer, which belongs to the model."""
        own = {"vocab_size": self.vocab_size, "tokens": self.fingerprint()}
        return {"kind": "token_windows", **asdict(self.choice), **own}

    def fingerprint(self) -> str | None:
        """SHA-256 of all tokens: a resumed run must see the text it began with. None for streams."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str | None:
        if self.row is None:
            return None
        return hashlib.sha256(self.row.cpu().numpy().tobytes()).hexdigest()

    @property
    def n_tokens(self) -> int | None:
        """Tokens in memory; None for streams."""
        return None if self.row is None else len(self.row)

    def state_tensors(self) -> dict[str, Tensor]:
        """A stream's place; nothing for text in memory."""
        return {} if self.stream is None else self.stream.state_tensors()

    def load_state_tensors(self, state: Mapping[str, Tensor]) -> None:
        """Go back to a place in the stream."""
        if self.stream is not None and state:
            self.stream.load_state_tensors(state)

    def _row(self, most: int | None) -> np.ndarray:
        """The first ``most`` tokens of the text, all of them for None."""
        pieces, held = [np.zeros(0, np.int32)], 0
        for _, piece in self._pieces(self._documents(0)):
            pieces.append(piece)
            held += len(piece)
            if most is not None and held >= most:
                break
        return np.concatenate(pieces)[:most]

    def _pieces(self, documents: Iterable[Any]) -> Iterator[tuple[int, np.ndarray]]:
        """Number of documents in it, and their tokens with the end-of-text token after each."""
        documents = iter(documents)
        end = self._end()
        while some := list(islice(documents, AT_ONCE)):
            if self.choice.is_tokenized:
                rows = [np.asarray(ids, dtype=np.int32) for ids in some]
            else:
                # Cut nowhere; without a length the tokenizer warns of texts that are longer than the context.
                rows = tokenize(some, self.tokenizer, max_length=10**9, add_special_tokens=False)
            for row in rows:
                if len(row):
                    self._check_ids(row)
                    yield 1, np.concatenate([row, end]) if not self.choice.is_tokenized else row
                else:
                    yield 1, row

    def _end(self) -> np.ndarray:
        end = getattr(self.tokenizer, "eos_token_id", None)
        fits = isinstance(end, int) and (self.vocab_size is None or 0 <= end < self.vocab_size)
        return np.asarray([end] if fits else [], dtype=np.int32)

    def _check_ids(self, row: np.ndarray) -> None:
        if row.min() < 0 or (self.vocab_size is not None and row.max() >= self.vocab_size):
            worst = int(row.max()) if row.min() >= 0 else int(row.min())
            raise MicrotomeError(
                f"dataset={self.choice.dataset!r}: holds token {worst}, the model knows 0 to"
                f" {(self.vocab_size or 0) - 1}; give the tokenizer that the model was trained with"
            )


class _Stream:
    """Windows of documents as they come, through a buffer to draw from."""

    def __init__(
        self,
        documents: Callable[[int], Iterator[Any]],
        pieces: Callable[[Iterable[Any]], Iterator[tuple[int, np.ndarray]]],
        choice: TextChoice,
    ) -> None:
        self.documents, self.pieces, self.choice = documents, pieces, choice
        self.read = 0  # documents of this pass that the windows so far were made of
        self.rest = np.zeros(0, np.int32)  # tokens that no window holds yet
        self.buffer = np.zeros((0, choice.context_length), np.int32)
        self._source: Iterator[tuple[int, np.ndarray]] | None = None
        self._seen = 0  # tokens since the pass began: a pass without any must not go round for ever

    def fill(self) -> None:
        """Read the first windows. Raises ``MicrotomeError`` for a text shorter than one."""
        windows = []
        while len(windows) < self.choice.buffer_size:
            window = self._next(once=True)
            if window is None:
                break
            windows.append(window)
        _check_length(self._seen, self.choice)
        self.buffer = np.stack(windows)

    def draw(self, n: int, generator: torch.Generator | None) -> Int[Tensor, "n T"]:
        """``n`` windows from random places of the buffer, which the stream's next ones take."""
        at = generator.device if generator is not None else "cpu"
        places = torch.randint(len(self.buffer), (n,), generator=generator, device=at).tolist()
        out = np.empty((n, self.choice.context_length), np.int32)
        for i, place in enumerate(places):
            out[i] = self.buffer[place]
            window = self._next()
            assert window is not None
            self.buffer[place] = window
        return torch.from_numpy(out)

    def _next(self, once: bool = False) -> np.ndarray | None:
        """The next window; at the end of the text its beginning again, or with ``once`` None."""
        length = self.choice.context_length
        parts, held = [self.rest], len(self.rest)
        while held < length:
            if self._source is None:
                self._source = self.pieces(self.documents(self.read))
            found = next(self._source, None)
            if found is None:
                if once:
                    self.rest = np.concatenate(parts)
                    return None
                self.read, self._source = 0, None
                continue
            self.read += found[0]
            self._seen += len(found[1])
            parts.append(found[1])
            held += len(found[1])
        row = np.concatenate(parts)
        self.rest = row[length:]
        return row[:length]

    def state_tensors(self) -> dict[str, Tensor]:
        return {
            "read": torch.tensor(self.read),
            "rest": torch.from_numpy(self.rest.copy()),
            "buffer": torch.from_numpy(self.buffer.copy()),
        }

    def load_state_tensors(self, state: Mapping[str, Tensor]) -> None:
        self.read, self._source = int(state["read"]), None
        self.rest = state["rest"].cpu().numpy().copy()
        self.buffer = state["buffer"].cpu().numpy().copy()


def held_out_windows(choice: TextChoice, tokenizer: Any, **how: Any) -> TokenWindows:
    """The text to measure on; of a stream ``buffer_size`` windows' tokens, which nothing uses up."""
    kept = choice.buffer_size if choice.streaming else None
    return TokenWindows(choice.held_out(), tokenizer, kept=kept, **how)


def windows_from_spec(
    spec: Mapping[str, Any],
    tokenizer: Any,
    *,
    device: str | torch.device = "cpu",
    held_out: bool = False,
) -> TokenWindows:
    """The windows that ``spec()`` described, or the text held out from them.

    Raises ``CannotLoad`` where the text has changed since.
    """
    own = ("kind", "tokens", "vocab_size")
    choice = TextChoice(**{key: value for key, value in spec.items() if key not in own})
    how: dict[str, Any] = {"vocab_size": spec.get("vocab_size"), "device": device}
    if held_out:
        return held_out_windows(choice, tokenizer, **how)
    windows = TokenWindows(choice, tokenizer, **how)
    if spec.get("tokens") not in (None, windows.fingerprint()):
        raise CannotLoad(f"dataset={choice.dataset!r}: has changed since the run began; start a new run")
    return windows


def check_vocabulary(tokenizer: Any, vocab_size: int) -> None:
    """Raise ``MicrotomeError`` when the tokenizer has more tokens than the model's embedding has rows."""
    own = int(getattr(tokenizer, "vocab_size", 0) or 0)
    if own > vocab_size:
        name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
        raise bad_value(
            "tokenizer_name",
            name,
            f"has {own} tokens, the model's embedding only {vocab_size} rows",
            "give the tokenizer that the model was trained with",
        )


def _check_length(n_tokens: int, choice: TextChoice) -> None:
    if n_tokens == 0:
        raise MicrotomeError(
            f"dataset={choice.dataset!r}: no text in split {choice.split!r}; give a longer text"
        )
    if n_tokens < choice.context_length:
        raise bad_value(
            "context_length",
            choice.context_length,
            f"the text of split {choice.split!r} of {choice.dataset} has only {n_tokens} tokens",
            "lower it, or give more text",
        )
