"""Random number generators: one seed, many independent named streams."""

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def stream_seed(seed: int, stream: str = "") -> int:
    """A 63-bit seed for the named stream: SHA-256 of seed and name, the same on every machine."""
    digest = hashlib.sha256(f"{seed}/{stream}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, device: "str | torch.device" = "cpu", stream: str = "") -> "torch.Generator":
    """A torch generator for one named stream of ``seed``.

    Streams are independent of each other: drawing more data does not change the masks.
    """
    import torch

    return torch.Generator(device=device).manual_seed(stream_seed(seed, stream))
