"""What every test shares: the same random numbers each time, one thread, and where real data may lie."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

REAL_DATA = Path(os.environ.get("MICROTOME_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(autouse=True)
def same_numbers_each_time():
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """A folder of real data by its name; the test is skipped where it is not there."""

    def folder(name: str) -> Path:
        if not (REAL_DATA / name).is_dir():
            pytest.skip(
                f"no real data at {REAL_DATA / name}; MICROTOME_TEST_DATA names a folder that has them"
            )
        return REAL_DATA / name

    return folder
