"""Where a decomposition is: a run folder of ours, or an original code's model file and configuration."""

from dataclasses import dataclass
from pathlib import Path

from microtome.core.errors import CannotLoad
from microtome.core.references import ModelReference, not_yet, parse_reference
from microtome.core.run_start import MARKER
from microtome.core.runs import RunFolder
from microtome.core.wandb_files import fetch_wandb
from microtome.targets.loading import TRAIN_CONFIGS

CONFIG = "final_config.yaml"


@dataclass(frozen=True)
class Located:
    """A checkpoint, the run folder of ours that holds it (None for another code's), and a short name.

    ``named``: that file was asked for; otherwise an older one will do where a kill cut the newest off.
    """

    checkpoint: Path
    run: RunFolder | None
    name: str
    named: bool = True

    @property
    def config_file(self) -> Path:
        """The configuration beside an original code's model file. Raises ``CannotLoad``."""
        path = self.checkpoint.parent / CONFIG
        if not path.is_file():
            raise CannotLoad(
                f"{self.checkpoint}: there is no {CONFIG} beside it; copy it there from the run that wrote it"
            )
        return path


def locate(text: str | Path, runs_root: str | Path = Path("runs")) -> Located:
    """What ``text`` means: ``latest``, a run folder of ours or of an original code, a model file in either,
    or a W&B run, which is downloaded. Raises ``CannotLoad``.
    """
    reference = parse_reference(text, runs_root=runs_root, want="decompose")
    if reference.kind == "wandb":
        folder = fetch_wandb(reference, Path(runs_root) / "downloads")
        name, reference = reference.run_id, parse_reference(folder)
    else:
        name = None
    if reference.path is None:
        raise not_yet(reference)
    if reference.kind == "run":
        return _in_run(RunFolder.open(reference.path), None)
    given = reference.path
    folder = given.parent.parent if given.parent.name == "checkpoints" else given.parent
    if (folder / MARKER).is_file():
        return _in_run(RunFolder.open(folder), given)
    if given.stem in TRAIN_CONFIGS:
        raise CannotLoad(
            f"{given}: a trained target, not a decomposition of it; give the model_<step>.pth of one,"
            " or decompose it with `microtome decompose`"
        )
    return Located(given, None, name or _name(reference))


def _in_run(run: RunFolder, checkpoint: Path | None) -> Located:
    """A run folder of ours, at the given model file or at its newest checkpoint."""
    if not run.kind.startswith("decompose"):
        raise CannotLoad(f"{run.path}: a {run.kind} run, not a decomposition; give one of those")
    named = checkpoint is not None
    if checkpoint is None:
        steps = run.checkpoint_steps()
        if not steps:
            raise CannotLoad(f"{run.path}: holds no checkpoint; the run stopped before it wrote one")
        checkpoint = run.path / "checkpoints" / f"step_{steps[-1]}.safetensors"
    return Located(checkpoint, run, run.path.resolve().name.removeprefix("decompose-"), named)


def _name(reference: ModelReference) -> str:
    """The id after a folder called ``wandb``, else the folder that was given, else the file's stem."""
    assert reference.path is not None
    parts = reference.path.resolve().parts
    if "wandb" in parts[:-2]:
        return parts[parts.index("wandb") + 1]
    given_folder = Path(reference.text).suffix != reference.path.suffix
    return reference.path.resolve().parent.name if given_folder else reference.path.stem
