"""Parts of a comparison on disk, so that a stopped run carries on and pictures can be drawn again."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pandas as pd

from microtome.comparison.part import Claim, Part, Row
from microtome.core.atomic import atomic_path, write_text
from microtome.core.errors import CannotLoad
from microtome.core.runs import RunFolder
from microtome.core.tensor_files import write_torch


def save_part(run: RunFolder, part: Part, name: str) -> None:
    """Write ``results/<name>.npz`` and ``.json``, the documented text files, and the tensors.

    The JSON file is written last: a part that has one is complete.
    """
    run.save_arrays(name, part.arrays)
    for path, text in part.texts.items():
        write_text(run.path / path, text)
    for path, state in part.tensors.items():
        write_torch(run.path / path, dict(state))
    run.save_json(
        f"results/{name}.json",
        {
            "name": part.name,
            "rows": [asdict(row) for row in part.rows],
            "claims": [asdict(claim) for claim in part.claims],
            "remarks": part.remarks,
        },
    )


def load_part(run: RunFolder, name: str) -> Part | None:
    """The part called ``name``; None when it was not finished. Tensors and texts stay on the disk."""
    if not (run.path / "results" / f"{name}.json").is_file():
        return None
    stored: dict[str, Any] = run.load_json(f"results/{name}.json")
    try:
        return Part(
            stored["name"],
            [_numbers(Row, row) for row in stored["rows"]],
            run.load_arrays(name),
            [_numbers(Claim, claim) for claim in stored["claims"]],
            list(stored["remarks"]),
        )
    except (KeyError, TypeError) as error:
        raise CannotLoad(f"{run.path}/results/{name}.json: not a part of a comparison ({error})") from None


def _numbers(kind: Any, stored: dict[str, Any]) -> Any:
    """A row or claim from JSON, where NaN is null and tuples are lists."""
    required = {f.name for f in fields(kind) if f.type is float}
    values = {
        key: float("nan") if value is None and key in required else value for key, value in stored.items()
    }
    if "seeds" in values and isinstance(values["seeds"], list):
        values["seeds"] = tuple(values["seeds"])
    return kind(**values)


def save_table(path: Path, rows: Sequence[Row]) -> Path:
    """Write the tidy table as CSV: one row a number, empty columns left out."""
    table = frame(rows)
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False)
    return path


def frame(rows: Sequence[Row]) -> pd.DataFrame:
    """The tidy table of any rows; columns that no row uses are left out."""
    table = pd.DataFrame([asdict(row) for row in rows], columns=[f.name for f in fields(Row)])
    used = [column for column in table if not table[column].isin(["", None]).all() or column == "value"]
    return table.loc[:, used]
