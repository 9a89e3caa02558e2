"""The Hugging Face libraries, which are an extra, and whether their hub can be asked."""

import importlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from microtome.core.errors import MicrotomeError

PATIENCE = 3.0  # seconds


def need(module: str, what: str) -> Any:
    """An imported module of the extra. Raises ``MicrotomeError`` with the pip command when it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MicrotomeError(
            f"{what}: needs {module.split('.')[0]} ({error}); pip install 'microtome[llm]'"
        ) from None


@contextmanager
def without_bars() -> Iterator[None]:
    """Keeps transformers from drawing progress bars for files that are here already."""
    logging = need("transformers.utils.logging", "a language model")
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def hub_address() -> str:
    """The address that the Hugging Face clients ask: ``HF_ENDPOINT``, or the hub itself."""
    return os.environ.get("HF_ENDPOINT") or "https://huggingface.co"


@cache
def hub_answers() -> bool:
    """Whether the hub's machine takes a connection; asked once. False where offline mode is set.

    Found out in seconds, where the hub's clients try many times over. Behind a proxy it is taken to be there:
    only the proxy could tell.
    """
    if any(os.environ.get(name, "").upper() in ("1", "TRUE", "YES", "ON") for name in _OFFLINE):
        return False
    if any(os.environ.get(name) or os.environ.get(name.lower()) for name in _PROXIES):
        return True
    parts = urlsplit(hub_address())
    try:
        port = parts.port or (80 if parts.scheme == "http" else 443)
        socket.create_connection((parts.hostname or "", port), PATIENCE).close()
    except (OSError, ValueError):
        return False
    return True


_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
_PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")
