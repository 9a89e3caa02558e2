"""Interpreting a decomposition from its files to its figures."""

import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from microtome.core.device import resolve_device, say, set_threads
from microtome.core.errors import CannotLoad, MicrotomeError, bad_value
from microtome.core.progress import progress as show_progress
from microtome.core.references import parse_reference
from microtome.core.runs import RunFolder, timestamp
from microtome.data.images import ArrayData
from microtome.data.loading import DataSource, data_from_spec
from microtome.decomposition.evaluate import store_results
from microtome.decomposition.interpret.compute import PARTS
from microtome.decomposition.interpret.config import InterpretConfig
from microtome.decomposition.interpret.interpretation import FILE, Interpretation, check_names
from microtome.decomposition.interpret.labels import true_labels
from microtome.decomposition.interpret.measured import stored_numbers
from microtome.decomposition.interpret.stored import Stored
from microtome.decomposition.interpret.subject import Labels, Subject
from microtome.decomposition.pictures import CATALOGUE, draw
from microtome.decomposition.result import Decomposition, load

KIND = "interpret"
Note = Callable[[str], None]


def interpret(
    decomposition: Decomposition | str | Path = "latest",
    config: InterpretConfig | None = None,
    *,
    data: DataSource | Shaped[Tensor, "n *d"] | None = None,
    labels: Labels | None = None,
    runs_root: str | Path = Path("runs"),
    progress: bool = False,
    note: Note = say,
    **settings: Any,
) -> Interpretation:
    """Compute and draw every figure that a decomposition allows; the results also stay in a run folder.

    ``decomposition``: a loaded one, or where one is: a run folder, its name, ``latest``, or a folder or model
    file of the original tools. Results go into a run of ours, otherwise into a new folder in ``runs_root``.
    ``data``, ``labels``: inputs and label function, where the files do not tell them. ``settings`` are
    fields of ``InterpretConfig``, on top of ``config``. Raises ``MicrotomeError``.
    """
    config = InterpretConfig.from_mapping({**(config.as_dict() if config else {}), **settings}, "settings")
    check_names(config.only or ())
    device = resolve_device(config.device)
    if isinstance(decomposition, Decomposition):
        d = decomposition
    else:
        d = load(decomposition, device=device, runs_root=Path(runs_root))
    if config.instance >= d.n_instances:
        mend = f"choose 0 to {d.n_instances - 1}"
        raise bad_value("instance", config.instance, f"the decomposition has {d.n_instances}", mend)
    set_threads(None, small=False)
    source = _source(d, data, device, note)
    subject = Subject(d, config, source, labels or true_labels(d), device)
    if config.features is not None and subject.n_features:
        config.chosen_features(subject.n_features, [])
    if config.output_dir is None and d.run is not None:
        if not (d.run.path / "results" / "weights.npz").is_file():
            _basic(d.run, d, source)
        return _computed_and_drawn(d.run, subject, progress=progress, note=note)
    with _new_folder(d, config, Path(runs_root), str(device)) as run:
        _basic(run, d, source)
        return _computed_and_drawn(run, subject, progress=progress, note=note)


def redraw(
    path: str | Path, config: InterpretConfig, *, runs_root: str | Path = Path("runs"), note: Note = say
) -> Interpretation:
    """Draw what is stored in a run folder, computing nothing. Raises ``MicrotomeError``."""
    check_names(config.only or ())
    reference = parse_reference(str(path), runs_root=runs_root, want="decompose")
    if reference.kind != "run" or reference.path is None:
        raise CannotLoad(f"{path}: holds no stored results to draw; run `microtome interpret {path}`")
    run = RunFolder.open(reference.path)
    if not run.kind.startswith(("decompose", KIND)):
        raise CannotLoad(f"{run.path}: a {run.kind} run, not a decomposition; give one that decompose made")
    saved = run.load_json(FILE) if (run.path / FILE).is_file() else {}
    stored = Stored.of(run, config)
    files, left_out = draw(stored, config.only, config.dpi)
    _refuse_nothing(left_out, config)
    _tell(left_out, note)
    return Interpretation(run, config, saved.get("numbers", {}), left_out, files)


def _computed_and_drawn(run: RunFolder, s: Subject, *, progress: bool, note: Note) -> Interpretation:
    config = s.config
    names = list(config.only or CATALOGUE)
    wanted = {need for name in names for need in CATALOGUE[name].needs}
    parts = {name: part for name, part in PARTS.items() if name in wanted}
    refused: dict[str, str] = {}
    numbers: dict[str, Any] = {}
    with show_progress("interpret", len(parts) + len(names), enabled=progress) as bar:
        done = 0
        for name, part in parts.items():
            refused[name] = part.refused(s)
            stale = run.path / "results" / f"{name}.npz"
            if refused[name]:
                stale.unlink(missing_ok=True)
            else:
                arrays = part.compute(s)
                run.save_arrays(name, arrays)
                if found := part.numbers(arrays):
                    numbers[name] = found
            done += 1
            bar.update(done)

        def one_more() -> None:
            nonlocal done
            done += 1
            bar.update(done)

        stored = Stored.of(run, config)
        files, left_out = draw(stored, names, config.dpi, one_more)
    for name in left_out:
        reasons = [refused[need] for need in CATALOGUE[name].needs if refused.get(need)]
        left_out[name] = reasons[0] if reasons else left_out[name]
    _refuse_nothing(left_out, config)
    numbers = {**stored_numbers(stored), **numbers}
    result = _with_earlier(Interpretation(run, config, numbers, left_out, files))
    _store(result, s.d)
    _tell(left_out, note)
    return result


def _with_earlier(new: Interpretation) -> Interpretation:
    """With ``only``: what an earlier interpretation of the run found of the other figures stays."""
    if new.config.only is None or not (new.run.path / FILE).is_file():
        return new
    old = new.run.load_json(FILE)
    earlier = old["settings"].get("only")
    both = None if earlier is None else (*earlier, *(n for n in new.config.only if n not in earlier))
    left_out = {name: why for name, why in old["left_out"].items() if name not in new.config.only}
    kept = [new.run.path / file for file in old["files"]]
    return Interpretation(
        new.run,
        new.config.model_copy(update={"only": both}),
        {**old["numbers"], **new.numbers},
        {**left_out, **new.left_out},
        [*kept, *(file for file in new.files if file not in kept)],
    )


def _store(result: Interpretation, d: Decomposition) -> None:
    run = result.run
    found = {
        "decomposition": d.name,
        "method": d.method,
        "target": d.target.spec(),
        "instances": d.n_instances,
        "settings": result.config.as_dict(),
        "numbers": result.numbers,
        "left_out": result.left_out,
        "files": [str(path.relative_to(run.path)) for path in result.files],
    }
    run.save_json(FILE, found)
    if run.kind.startswith(KIND):
        run.finish({"method": d.method, **result.numbers})


def _tell(left_out: dict[str, str], note: Note) -> None:
    """One line a reason."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        by_reason.setdefault(reason, []).append(name)
    for reason, names in by_reason.items():
        note(f"Left out {', '.join(names)}: {reason}.")


def _refuse_nothing(left_out: dict[str, str], config: InterpretConfig) -> None:
    """Raise ``MicrotomeError`` when none of the figures that were asked for by name can be drawn."""
    if config.only and set(config.only) <= set(left_out):
        reason = left_out[config.only[0]]
        raise bad_value(
            "only", ",".join(config.only), reason, "`microtome interpret --list` lists the others"
        )


@contextmanager
def _new_folder(
    d: Decomposition, config: InterpretConfig, runs_root: Path, device: str
) -> Generator[RunFolder, None, None]:
    """A run folder for what is not a run of ours; a new one is removed when nothing comes of it."""
    path = config.output_dir or runs_root / f"{KIND}-{d.name}-{timestamp()}"
    existed = path.exists()
    kind = f"{KIND}-{d.method}"
    reuse = config.output_dir is not None
    run = RunFolder.create(path, config, seed=config.seed, device=device, kind=kind, reuse=reuse)
    try:
        yield run
    except BaseException:
        if not existed:
            shutil.rmtree(path, ignore_errors=True)
        raise


def _basic(run: RunFolder, d: Decomposition, data: DataSource | None) -> None:
    """What every decomposition stores at its end."""
    if data is None:
        raise MicrotomeError(f"{run.path.name}: the run's inputs are not known; pass data=... in Python")
    store_results(run, d, data)


def _source(d: Decomposition, data: Any, device: torch.device, note: Note) -> DataSource | None:
    if isinstance(data, Tensor):
        return ArrayData(data.to(device))
    if data is not None:
        return data
    if d.data is None:
        return None
    try:
        return data_from_spec(d.data, device)
    except CannotLoad as problem:
        note(str(problem))
        return None
