"""What every test shares: the same random numbers each time, and one thread."""

import pytest
import torch


@pytest.fixture(autouse=True)
def same_numbers_each_time():
    torch.manual_seed(0)
    torch.set_num_threads(1)
