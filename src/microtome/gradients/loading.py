"""Reading results back: the documented ``load_results``, and a run as the object it was."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from microtome.core.errors import CannotLoad
from microtome.core.references import open_run
from microtome.core.runs import RunFolder
from microtome.gradients.consolidated import load_npz
from microtome.gradients.result import GradientResult, one_kind

CONSOLIDATED = "consolidated_results.npz"
_ARRAY_FILE = re.compile(r"(layer_\d+_.+?)(?:_(?:gradients|active_gradients|attribution|values))?\.npy")
_LAYER_FILE = re.compile(r"layer_(\d+)\.npz")


def load_results(path: str | Path, allow_pickle: bool = False) -> dict[str, Any]:
    """``{'data': {'layer_0_mean_abs': array, ...}, 'metadata': {...}}`` of an npz file or a results folder.

    Nothing is unpickled: metadata is read from JSON. ``allow_pickle`` also reads the metadata of npz files
    that the original scripts wrote, by an unpickler that refuses everything but plain values and arrays.
    Raises ``CannotLoad`` for what is missing or damaged.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        arrays, metadata = load_npz(path, allow_pickle)
        beside = path.parent / "metadata.json"
        if not metadata and path.name == CONSOLIDATED and beside.is_file():
            metadata = _read_metadata(beside)
        return {"data": arrays, "metadata": metadata}
    data = _arrays_in(path)
    metadata = _read_metadata(path / "metadata.json") if (path / "metadata.json").is_file() else {}
    if not data and (path / CONSOLIDATED).is_file():
        data, own = load_npz(path / CONSOLIDATED, allow_pickle)
        metadata = metadata or own
    if not data:
        raise CannotLoad(f"{path}: holds neither layer_*.npy files nor {CONSOLIDATED}; give a results folder")
    return {"data": data, "metadata": metadata}


def load(path: str | Path = "latest", *, runs_root: str | Path = Path()) -> GradientResult:
    """The result of a run: its folder, its consolidated npz file, or ``latest`` in ``runs_root``.

    A run folder of ours holds every score with its standard error; a file, or a folder of the original
    scripts, the documented arrays. Raises ``CannotLoad``.
    """
    given = Path(path).expanduser()
    if str(path) == "latest" or (given / "environment.json").is_file():
        return result_in(open_run(str(path), runs_root=runs_root, want="gradients"))
    found = load_results(given)
    return from_documented(found["data"], found["metadata"], given)


def result_in(run: RunFolder) -> GradientResult:
    """The result that a run folder holds. Raises ``CannotLoad`` when it is another kind or not finished."""
    if not run.kind.startswith("gradients-"):
        raise CannotLoad(
            f"{run.path}: a {run.kind} run, not a gradient analysis; `microtome gradients` makes one"
        )
    layers = {
        int(match[1]): run.load_arrays(file.stem)
        for file in (run.path / "results").glob("layer_*.npz")
        if (match := _LAYER_FILE.fullmatch(file.name))
    }
    if not layers:
        raise CannotLoad(f"{run.path}: no results yet; carry it on with --resume {run.path}")
    tokens = run.load_json("results/top_tokens.json") if _has(run, "results/top_tokens.json") else {}
    return GradientResult(
        kind=one_kind(run.kind.removeprefix("gradients-")),
        layers=dict(sorted(layers.items())),
        metadata=run.load_json("metadata.json"),
        tokens={int(layer): rows for layer, rows in tokens.items()},
        path=run.path,
    )


def from_documented(data: dict[str, np.ndarray], metadata: dict[str, Any], path: Path) -> GradientResult:
    """A result from the documented arrays alone."""
    quantity = str(metadata.get("aggregate_by", "gradients"))
    layers: dict[int, dict[str, np.ndarray]] = {}
    for key, values in data.items():
        match = re.fullmatch(r"layer_(\d+)_(mean_abs|mean|attribution)(_norm_sum_abs|_norm_sum)?", key)
        if match is None:
            continue
        name = "attribution_mean" if match[2] == "attribution" else f"{quantity}_{match[2]}{match[3] or ''}"
        layers.setdefault(int(match[1]), {})[name] = values
    if not layers:
        raise CannotLoad(f"{path}: no layer_*_mean or layer_*_mean_abs in it; not a gradient analysis")
    wide = max(len(values) for arrays in layers.values() for values in arrays.values())
    kind = one_kind(str(metadata.get("analysis", "features" if wide > 16_384 else "layers")))
    return GradientResult(kind, dict(sorted(layers.items())), metadata, path=path)


def _arrays_in(folder: Path) -> dict[str, np.ndarray]:
    data = {}
    for file in sorted(folder.glob("layer_*.npy"), key=_by_layer):
        match = _ARRAY_FILE.fullmatch(file.name)
        if match is None:
            continue
        # layer_0_attribution.npy is its own key; layer_0_mean_attribution.npy is that of a mode.
        key = match[1] if re.search(r"_mean", match[1]) else file.stem
        try:
            data[key] = np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise CannotLoad(f"{file}: truncated or no npy file ({error})") from None
    return data


def _by_layer(file: Path) -> tuple[int, str]:
    return int(file.stem.split("_")[1]), file.stem


def _read_metadata(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CannotLoad(f"{path}: truncated or not JSON ({error})") from None


def _has(run: RunFolder, relative: str) -> bool:
    return (run.path / relative).is_file()
