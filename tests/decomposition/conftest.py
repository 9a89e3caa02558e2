"""Fixtures of the tests of whole runs."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from small_runs import (
    start,
)

from microtome.core.runs import RunFolder
from microtome.core.tensor_files import write_torch
from microtome.decomposition import decompose as decompose_module
from microtome.targets.config import TMSModelConfig
from microtome.targets.tms import TMS
from microtome.training.config import TMSTrainConfig


@pytest.fixture(scope="module")
def without_pictures() -> Iterator[None]:
    """Pictures take longer than these runs, and have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decompose_module, "draw_all", lambda run: [])
        yield


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TMS target on disk, as the training command leaves it."""
    path = tmp_path_factory.mktemp("target")
    model = TMSModelConfig(n_features=5, n_hidden=2, n_instances=2)
    write_torch(path / "tms.pth", TMS(model).reset(1).state_dict())
    TMSTrainConfig(tms_model_config=model, steps=1).to_file(path / "tms_train_config.yaml")
    return path


@pytest.fixture(scope="module")
def whole(target: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], RunFolder]:
    """By method: the run that nothing disturbed."""
    return cache(lambda method: start(method, target, tmp_path_factory.mktemp("whole") / method))
