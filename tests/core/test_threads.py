"""How many threads a long operation gets."""

import os

import pytest

from microtome.core import device
from microtome.core.device import idle_threads


@pytest.fixture
def four_cores(monkeypatch):
    monkeypatch.setattr(device, "_cores", lambda: 4)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


@pytest.mark.parametrize(("load", "threads"), [(0.1, 4), (1.2, 3), (3.9, 1), (40.0, 1)])
def test_idle_cores_each_get_a_thread(four_cores, monkeypatch, load, threads):
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0), raising=False)
    assert idle_threads() == threads


def test_what_the_user_asks_for_counts(four_cores, monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (40.0, 0.0, 0.0), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert idle_threads() == 3


def test_a_system_that_knows_no_load(four_cores, monkeypatch):
    monkeypatch.delattr(os, "getloadavg", raising=False)
    assert idle_threads() == 4
