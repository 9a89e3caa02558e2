"""A decomposition's run as library users name it: where it is, how it was configured, which step to load."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from microtome.core.config import read_yaml
from microtome.core.runs import RunFolder
from microtome.decomposition.config import DecompositionConfig, config_from_mapping
from microtome.decomposition.old_runs.configs import read_old_config
from microtome.decomposition.old_runs.find import Located, locate


@dataclass(frozen=True)
class SPDRunInfo:
    """One run and one of its checkpoints. ``run`` is None for a run that an original code wrote.

    ``notes`` then say which of its settings ``config`` could not take; ``original`` has all of them.
    """

    run: RunFolder | None
    config: DecompositionConfig
    checkpoint_path: Path
    name: str = ""
    notes: tuple[str, ...] = ()
    original: Mapping[str, Any] = field(default_factory=dict, repr=False)
    named: bool = field(default=True, repr=False)

    @classmethod
    def from_path(cls, path: str | Path, *, runs_root: str | Path = Path("runs")) -> "SPDRunInfo":
        """A run folder of ours (its newest checkpoint), a model file inside one, ``latest``, a folder or
        model file that an original code wrote, or ``wandb:[entity/][project/][runs/]id``.

        Raises ``CannotLoad`` when there is no decomposition there.
        """
        located = locate(path, runs_root)
        checkpoint, run = located.checkpoint, located.run
        if run is not None:
            config = config_from_mapping(run.config, str(run.path / "config.yaml"))
            return cls(run, config, checkpoint, located.name, named=located.named)
        method = "apd" if checkpoint.stem.startswith("spd_model") else None
        old = read_old_config(read_yaml(located.config_file), located.config_file.name, method)
        return cls(None, old.config, checkpoint, located.name, old.notes, old.original)

    @property
    def located(self) -> Located:
        """Where the checkpoint is, as ``load`` takes it."""
        return Located(self.checkpoint_path, self.run, self.name, self.named)
