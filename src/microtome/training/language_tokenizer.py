"""A byte-level BPE tokenizer of our own that every version of transformers reads back unchanged."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from microtome.core.atomic import write_text
from microtome.core.errors import MicrotomeError
from microtome.core.hub import need

END_OF_TEXT = "<|endoftext|>"
# transformers 5 rebuilds the tokenizers of some architectures by their class, from vocabulary and merges, and
# forgets what the file says of splitting. So ours splits as Qwen 2's does, and says that it is one.
TOKENIZER_CLASS = "Qwen2Tokenizer"
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Any:
    """A ``tokenizers.Tokenizer``: NFC, Qwen 2's splitting, byte-level BPE of at most ``vocab_size`` tokens.

    Token 0 is the end of a text. Short texts give fewer tokens.
    """
    tokenizers = need("tokenizers", "a tokenizer")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.normalizer = tokenizers.normalizers.NFC()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(_SPLIT), "isolated"),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def tokenizer_from_json(text: str) -> Any:
    """The tokenizer that ``tokenizer.to_str()`` wrote."""
    return need("tokenizers", "a tokenizer").Tokenizer.from_str(text)


def save_tokenizer(tokenizer: Any, folder: Path, context_length: int) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json`` for ``AutoTokenizer``."""
    write_text(folder / "tokenizer.json", tokenizer.to_str(pretty=True))
    settings = {
        "tokenizer_class": TOKENIZER_CLASS,
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "unk_token": None,
        "bos_token": None,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context_length,
        "padding_side": "right",
    }
    write_text(folder / "tokenizer_config.json", json.dumps(settings, indent=2) + "\n")


def check_reloaded(tokenizer: Any, folder: Path, texts: Sequence[str]) -> None:
    """Raise ``MicrotomeError`` when ``AutoTokenizer`` reads another tokenizer out of ``folder``."""
    transformers = need("transformers", "a tokenizer")
    reloaded = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    for text in texts:
        # Without the warning about texts longer than the context.
        ids = reloaded(text, truncation=True, max_length=10**9)["input_ids"]
        if ids != tokenizer.encode(text).ids:
            raise MicrotomeError(
                f"{folder}: transformers {transformers.__version__} reads the tokenizer back changed"
                f" (as {type(reloaded).__name__}); use another version"
            )
