"""Was ``spd/experiments/tms/train_tms.py``: ``microtome train tms``."""

import sys

from microtome.cli.main import main as _main
from microtome.training.config import TMSModelConfig, TMSTrainConfig
from microtome.training.toy import train_tms as run_train

__all__ = ["TMSModelConfig", "TMSTrainConfig", "run_train"]


def main() -> int:
    """Run as ``python -m``, with the same words after it as the command takes."""
    return _main(["train", "tms", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
