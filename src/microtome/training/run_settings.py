"""What every training run is told besides its mathematics. Torch free."""

from typing import Literal

from pydantic import PositiveInt

from microtome.core.config import Config


class RunSettings(Config):
    """Seed, machine, and where metrics go."""

    seed: int = 0
    """Start values and data; instance k starts the same whether it is trained alone or beside others."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    threads: PositiveInt | None = None
    """Threads of one operation; left out, small networks take one."""
    print_freq: PositiveInt = 100
    """Steps between two lines of ``metrics.jsonl``."""
    tracker: Literal["none", "wandb", "tensorboard"] | None = None
    """Where metrics go besides the run folder; null: `wandb` when wandb_project is set, else none."""
    wandb_project: str | None = None
    """Weights & Biases project; naming one turns that tracking on."""
