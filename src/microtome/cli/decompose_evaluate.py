"""``microtome decompose evaluate``: what a decomposition is worth, check by check."""

from collections.abc import Sequence

from microtome.core.errors import MicrotomeError


def main(arguments: Sequence[str]) -> int:  # noqa: ARG001
    """Evaluate a run and print the verdict."""
    raise MicrotomeError("decompose evaluate: not there yet")
