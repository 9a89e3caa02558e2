"""Was ``spd/scripts/component_visualization/component_visualization.py``: ``microtome components``."""

import sys

from microtome.cli.main import main as _main
from microtome.decomposition.interpret.components import components
from microtome.decomposition.interpret.components_config import (
    ComponentsConfig as ComponentVisualizationConfig,
)

__all__ = ["ComponentVisualizationConfig", "components", "main"]


def main() -> int:
    """Run as ``python -m``, with the same words after it as the command takes."""
    return _main(["components", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
