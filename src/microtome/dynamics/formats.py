"""Measurement files of the original tracker: one JSON file a training run, plain or gzipped."""

import gzip
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from microtome.core.errors import CannotLoad

SUFFIXES = (".json", ".json.gz")
MEASURES = ("stable_rank", "participation_ratio", "effective_rank_90", "nuclear_norm_ratio")
# What the columns of an original file are called here: the participation ratio was that of singular values.
OUR_NAMES = {"participation_ratio": "participation_ratio_singular_values"}


@dataclass(frozen=True)
class OriginalFile:
    """One original file as arrays. ``values`` maps a measure to ``[records, layers]``, in its own order."""

    name: str
    path: Path
    facts: dict[str, Any]
    steps: np.ndarray
    scalars: dict[str, np.ndarray]
    layers: list[str]
    values: dict[str, np.ndarray]


def original_files(folder: str | Path) -> list[Path]:
    """The ``.json`` and ``.json.gz`` files in a folder, in the order of plain names. ``CannotLoad``."""
    folder = Path(folder)
    if not folder.is_dir():
        raise CannotLoad(f"{folder}: no such folder; give the folder that holds the run files")
    found = [file for file in folder.iterdir() if is_original(file)]
    if not found:
        raise CannotLoad(f"{folder}: holds no .json or .json.gz run files; give the folder that holds them")
    named: dict[str, Path] = {}
    for file in found:
        other = named.setdefault(run_name(file), file)
        if other != file:
            raise CannotLoad(f"{folder}: holds both {file.name} and {other.name}; remove one of them")
    return [named[name] for name in sorted(named, key=lambda name: f"{name}.json")]


def is_original(path: Path) -> bool:
    """Whether a file is named like an original measurement file."""
    return path.is_file() and not path.name.startswith(".") and path.name.endswith(SUFFIXES)


def run_name(path: Path) -> str:
    """The run's name: the file name without ``.json`` or ``.json.gz``."""
    return path.name.removesuffix(".gz").removesuffix(".json")


def read_original(path: str | Path) -> OriginalFile:
    """Read one run; ``NaN`` literals are kept, a layer that a record lacks is NaN there.

    Raises ``CannotLoad`` in one line for a file that is missing, cut short, or of another shape.
    """
    path = Path(path)
    records, facts = _records(path, _parsed(path))
    layers = list(dict.fromkeys(name for record in records for name in record["layer_metrics"]))
    if not layers:
        raise CannotLoad(f"{path}: its records name no layers; the run recorded nothing to analyse")
    measures = list(dict.fromkeys(key for metrics in records[0]["layer_metrics"].values() for key in metrics))
    try:
        values = {
            measure: np.array(
                [[_cell(record["layer_metrics"], layer, measure) for layer in layers] for record in records],
                dtype=np.float64,
            )
            for measure in measures
        }
        scalars = {
            key: np.array([_number(record.get(key)) for record in records])
            for key in ("epoch", "loss", "grad_norm")
            if any(key in record for record in records)
        }
        steps = np.array([int(record["step"]) for record in records], dtype=np.int64)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CannotLoad(
            f"{path}: a record does not hold a step and numbers ({type(error).__name__}: {error})"
        ) from None
    if len(steps) > 1 and (np.diff(steps) <= 0).any():
        raise CannotLoad(f"{path}: its steps do not ascend; sort the records by step")
    return OriginalFile(run_name(path), path, facts, steps, scalars, layers, values)


def _parsed(path: Path) -> Any:
    try:
        data = path.read_bytes()
        if path.name.endswith(".gz"):
            data = gzip.decompress(data)
        return json.loads(data)
    except FileNotFoundError:
        raise CannotLoad(f"{path}: no such file; give a run's .json or .json.gz file") from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise CannotLoad(f"{path}: truncated or not gzipped; copy the file again") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        where = f" at character {error.pos:,}" if isinstance(error, json.JSONDecodeError) else ""
        raise CannotLoad(f"{path}: half-written or not JSON{where}; copy or record the run again") from None
    except OSError as error:
        raise CannotLoad(f"{path}: cannot be read ({error.strerror})") from None


def _records(path: Path, content: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    records = content.get("measurements") if isinstance(content, dict) else None
    if not isinstance(records, list):
        raise CannotLoad(f"{path}: not a run of measurements (no list named measurements in it)")
    if not records:
        raise CannotLoad(f"{path}: holds no measurements; the run recorded nothing to analyse")
    for record in records:
        if not isinstance(record, dict) or not isinstance(record.get("layer_metrics"), dict):
            raise CannotLoad(f"{path}: a record has no layer_metrics; record the run again")
    return records, {key: value for key, value in content.items() if key != "measurements"}


def _cell(metrics: dict[str, Any], layer: str, measure: str) -> float:
    return _number(metrics[layer].get(measure)) if layer in metrics else float("nan")


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)
