"""A small language model on disk, made once."""

from pathlib import Path

import pytest
import torch

from microtome.data.text import read_texts
from microtome.targets.language_model import LanguageModel, load_language_model
from microtome.training.language_tokenizer import save_tokenizer, train_tokenizer

TEXTS = read_texts("builtin", limit=40)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2 of two layers with a tokenizer, as transformers saves one."""
    import transformers

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tokenizer = train_tokenizer(TEXTS, 300)
    config = transformers.Qwen2Config(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        pad_token_id=0,
    )
    model = transformers.Qwen2ForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2 and "embed" not in name:
                parameter.mul_(8)
    model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder, 64)
    return folder


@pytest.fixture
def lm(model_folder: Path) -> LanguageModel:
    return load_language_model(str(model_folder), device="cpu")


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    """Thirty paragraphs."""
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(TEXTS[:30]))
    return path
