"""Was ``spd/experiments/resid_mlp/train_resid_mlp.py``: ``microtome train resid-mlp``."""

import sys

from microtome.cli.main import main as _main
from microtome.training.config import ResidMLPModelConfig, ResidMLPTrainConfig
from microtome.training.toy import train_resid_mlp as run_train

__all__ = ["ResidMLPModelConfig", "ResidMLPTrainConfig", "run_train"]


def main() -> int:
    """Run as ``python -m``, with the same words after it as the command takes."""
    return _main(["train", "resid-mlp", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
