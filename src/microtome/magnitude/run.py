"""A magnitude sweep from configuration to files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from microtome.core.atomic import write_text
from microtome.core.device import resolve_device, say
from microtome.core.errors import MicrotomeError
from microtome.core.progress import progress
from microtome.core.runs import RunFolder, timestamp
from microtome.magnitude.config import MagnitudeConfig, SweepConfig
from microtome.magnitude.pictures import draw_all
from microtome.magnitude.result import KIND, MagnitudeSweep, gigabytes, sweep_in
from microtome.magnitude.summary import lines_of, response_frame, summary_of

if TYPE_CHECKING:
    import torch

    from microtome.decomposition.result import Decomposition

LARGE = 100e6  # bytes of results worth a word
MANY_ROWS = 20_000  # inputs worth showing progress for


@dataclass(frozen=True)
class Made:
    """What a sweep left: its folder, its files in the order they were written, and a few lines on it."""

    folder: Path
    files: list[Path]
    lines: list[str]


def run(
    config: MagnitudeConfig,
    *,
    decomposition: "Decomposition | None" = None,
    note: Callable[[str], None] = say,
    processes: int = 1,
    show_progress: bool = False,
    runs_root: Path = Path("runs"),
    command: Sequence[str] = (),
) -> Made:
    """Sweep, write every array, the responses' kinds and one unified grid a feature and site.

    ``decomposition`` stands in for ``config.model_path``. ``note`` is told what was left out. Raises
    ``MicrotomeError`` for a feature or an instance that is not there, ``CannotLoad`` for a missing model.
    """
    from microtome.magnitude.forward import n_inputs
    from microtome.magnitude.sweep import compute

    device, found = load_model(config, decomposition, runs_root)
    features = config.chosen_features(n_inputs(found))
    config.check_instance(found.n_instances)
    rows = len(features) * config.n_steps
    with progress("sweep", rows, enabled=show_progress and rows >= MANY_ROWS) as bar:
        sweep = compute(
            found,
            features,
            config.n_steps,
            config.max_magnitude,
            config.two_sided,
            told=lambda done, _: bar.update(done),
        )
    if sweep.left_out:
        note(
            f"No gates in this decomposition ({found.method}): left out {', '.join(sweep.left_out)};"
            " drawn instead: the length of what each component writes."
        )
    folder = new_folder(config, found, KIND, device, runs_root, command)
    files = [folder.save_arrays("magnitude", sweep.arrays())]
    return _finish(sweep, config, folder, files, note, processes, show_progress)


def redraw(
    run: RunFolder,
    config: MagnitudeConfig,
    *,
    note: Callable[[str], None] = say,
    processes: int = 1,
    show_progress: bool = False,
) -> Made:
    """Draw and classify a finished sweep again, as ``config`` says, without its network."""
    sweep = sweep_in(run)
    config.check_instance(sweep.n_instances)
    return _finish(sweep, config, run, [], note, processes, show_progress)


def _finish(
    sweep: MagnitudeSweep,
    config: MagnitudeConfig,
    folder: RunFolder,
    files: list[Path],
    note: Callable[[str], None],
    processes: int,
    show_progress: bool,
) -> Made:
    frame = response_frame(sweep, config.instance, config.ci_threshold)
    table = frame.to_csv(index=False, float_format="%.6g")
    files.append(write_text(folder.path / "results" / "responses.csv", table))
    files += draw_all(sweep, config, folder, note, processes=processes, show_progress=show_progress)
    folder.finish(summary_of(sweep, frame))
    lines = lines_of(frame)
    if sweep.nbytes > LARGE:
        lines.append(f"The arrays of this sweep take {gigabytes(sweep.nbytes)}.")
    return Made(folder.path, files, lines)


def load_model(
    config: SweepConfig, decomposition: "Decomposition | None", runs_root: Path
) -> "tuple[torch.device, Decomposition]":
    """The device, and the decomposition that ``model_path`` names."""
    device = resolve_device(config.device)
    if decomposition is not None:
        return device, decomposition
    from microtome.decomposition.result import load

    return device, load(config.model_path, device=device, runs_root=runs_root)


def new_folder(
    config: SweepConfig,
    found: "Decomposition",
    kind: str,
    device: object,
    runs_root: Path,
    command: Sequence[str] = (),
) -> RunFolder:
    """``output_dir`` itself, or a new run folder named after the model."""
    where = config.output_dir or runs_root / f"{kind}-{found.name}-{timestamp()}"
    reuse = config.output_dir is not None
    try:
        return RunFolder.create(where, config, command=command, device=str(device), kind=kind, reuse=reuse)
    except MicrotomeError as error:  # told under the name that this command has for it
        raise type(error)(str(error).replace("out_dir", "output_dir")) from None
