"""A decomposition's run as library users name it: where it is, how it was configured, which step to load."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from microtome.core.errors import CannotLoad
from microtome.core.references import parse_reference
from microtome.core.runs import RunFolder
from microtome.core.tensor_files import load_state_dict, read_safetensors
from microtome.decomposition.config import DecompositionConfig, config_from_mapping


@dataclass(frozen=True)
class SPDRunInfo:
    """One run and one of its checkpoints."""

    run: RunFolder
    config: DecompositionConfig
    checkpoint_path: Path

    @classmethod
    def from_path(cls, path: str | Path, *, runs_root: str | Path = Path("runs")) -> "SPDRunInfo":
        """A run folder (its newest checkpoint), a model file inside one, or ``latest``.

        Raises ``CannotLoad`` when there is no decomposition there.
        """
        reference = parse_reference(path, runs_root=runs_root, want="decompose")
        if reference.path is None:
            raise CannotLoad(f"{reference.text}: a {reference.kind} reference; give a decompose run's folder")
        given = reference.path
        if given.is_dir():
            run = RunFolder.open(given)
            steps = run.checkpoint_steps()
            if not steps:
                raise CannotLoad(f"{run.path}: holds no checkpoint; the run stopped before it wrote one")
            given = run.path / "checkpoints" / f"step_{steps[-1]}.safetensors"
        else:
            folder = given.parent.parent if given.parent.name == "checkpoints" else given.parent
            run = RunFolder.open(folder)
        if not run.kind.startswith("decompose"):
            raise CannotLoad(f"{run.path}: a {run.kind} run, not a decomposition; give one of those")
        return cls(run, config_from_mapping(run.config, str(run.path / "config.yaml")), given)


def parameters_in(path: Path, names: Sequence[str]) -> dict[str, Tensor]:
    """The named trained tensors in a checkpoint or in a documented model file. Raises ``CannotLoad``."""
    state = read_safetensors(path)[0] if path.suffix == ".safetensors" else load_state_dict(path)
    # Model files of APD hold A itself, as the original code's do.
    state |= {f"{n}_T": t.mT for n, t in state.items() if n.endswith(".A")}
    missing = [name for name in names if name not in state]
    if missing:
        raise CannotLoad(f"{path}: has no tensor {missing[0]}; give a model file that this run wrote")
    return {name: state[name] for name in names}
