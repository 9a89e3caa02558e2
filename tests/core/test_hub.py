"""Whether the hub answers, and the extra that its libraries are."""

import socket
import sys

import pytest

from microtome.core.errors import MicrotomeError
from microtome.core.hub import hub_answers, need, without_bars


@pytest.fixture(autouse=True)
def ask_again(monkeypatch):
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    hub_answers.cache_clear()
    yield
    hub_answers.cache_clear()


def test_a_server_that_listens_answers(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert hub_answers()
        hub_answers.cache_clear()
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        assert not hub_answers()


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:{port}", "https://127.0.0.1:{port}/mirror", "nonsense://:x"]
)
def test_one_that_is_gone_does_not(monkeypatch, address):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", address.format(port=port))
    assert not hub_answers()
    hub_answers.cache_clear()
    monkeypatch.setenv("https_proxy", "http://proxy:3128")  # only the proxy could tell
    assert hub_answers()


def test_a_missing_library_is_one_line(monkeypatch):
    monkeypatch.delitem(sys.modules, "transformers.utils", raising=False)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MicrotomeError, match=r"a model: needs transformers .*pip install 'microtome\[llm\]'"):
        need("transformers.utils", "a model")


def test_bars_come_back():
    logging = pytest.importorskip("transformers.utils.logging")
    logging.enable_progress_bar()
    with without_bars():
        assert not logging.is_progress_bar_enabled()
    assert logging.is_progress_bar_enabled()
