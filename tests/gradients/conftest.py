"""Small language models and dictionaries on disk, made once."""

from pathlib import Path

import pytest
import torch
from tiny import N_FEATURES, save_dictionaries, save_model

from microtome.targets.language_model import LanguageModel, load_language_model


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2 of three layers with a tokenizer, as transformers saves one."""
    torch.manual_seed(0)
    return save_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def saes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TopK dictionary for every layer, sparsify's layout; random, so that it reconstructs poorly."""
    torch.manual_seed(1)
    return save_dictionaries(tmp_path_factory.mktemp("saes"), N_FEATURES)


@pytest.fixture
def lm(model_folder: Path) -> LanguageModel:
    return load_language_model(str(model_folder), device="cpu")


@pytest.fixture
def texts() -> list[str]:
    from tiny import TEXTS

    return list(TEXTS)
