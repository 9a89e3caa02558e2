"""What ``evaluate`` hands back: a verdict, the numbers behind it, and pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from microtome.core.config_keys import nearest
from microtome.core.errors import CannotLoad, bad_value
from microtome.core.references import open_run
from microtome.core.runs import RunFolder
from microtome.decomposition.evaluation.checks import Check
from microtome.decomposition.evaluation.draw import PICTURES, drawable
from microtome.decomposition.evaluation.told import good_seeds, verdict_lines

if TYPE_CHECKING:
    import pandas as pd

FILE = "evaluation.json"
RESULTS = "evaluation"


@dataclass(frozen=True)
class Evaluation:
    """A decomposition's verdict.

    ``about``: of what, on what, how much. ``values``: numbers by name, one a seed; ``margins``: half their
    95 % interval over batches, where there are several. ``arrays``: what the pictures are drawn from;
    ``series/<name>`` [batches, K] are the numbers of every batch. ``run``: where it is stored.
    """

    about: dict[str, Any]
    checks: tuple[Check, ...]
    values: dict[str, list[float]]
    margins: dict[str, list[float] | None]
    arrays: dict[str, np.ndarray] = field(repr=False, default_factory=dict)
    run: RunFolder | None = None

    @property
    def passed(self) -> bool:
        """Whether no check failed and none was unclear; those that were not measured do not count."""
        return all(check.status in ("passed", "not measured") for check in self.checks)

    @property
    def good_seeds(self) -> list[int]:
        """The seeds that pass every check that was measured."""
        return good_seeds(self.about["seeds"], self.checks)

    def check(self, name: str) -> Check:
        """One check. Raises ``MicrotomeError`` for an unknown name."""
        for check in self.checks:
            if check.name == name:
                return check
        raise bad_value("name", name, "no such check", f"there are {', '.join(c.name for c in self.checks)}")

    def frame(self) -> "pd.DataFrame":
        """Every number as a row: measure, seed, value, margin (nan where there is none)."""
        import pandas as pd

        rows = [
            {"measure": name, "seed": k, "value": value, "margin": np.nan if half is None else half[k]}
            for name, values in self.values.items()
            for half in [self.margins.get(name)]
            for k, value in enumerate(values)
        ]
        return pd.DataFrame(rows, columns=pd.Index(["measure", "seed", "value", "margin"]))

    def verdict(self) -> "pd.DataFrame":
        """The checks as rows."""
        import pandas as pd

        names = ("name", "measured", "wanted", "status", "why")
        return pd.DataFrame([{n: getattr(check, n) for n in names} for check in self.checks])

    def pictures(self) -> list[str]:
        """The names that ``plot`` takes."""
        return drawable(self.arrays)

    def plot(self, name: str = "recon") -> Figure:
        """One picture. Raises ``MicrotomeError`` for one that cannot be drawn from what was measured."""
        if name not in self.pictures():
            near = nearest(name, list(PICTURES))
            mend = (
                f"did you mean {near}?"
                if near and near != name
                else f"there are {', '.join(self.pictures())}"
            )
            raise bad_value("name", name, "no such picture here", mend)
        return PICTURES[name].draw(self.arrays)

    def __str__(self) -> str:
        return "\n".join(verdict_lines(self.about, self.checks))

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{word}</th>" for word in ("check", "measured", "wanted", "verdict", "why"))
        rows = "".join(
            "<tr>"
            + "".join(f"<td>{escape(t)}</td>" for t in (c.name, c.measured, c.wanted, c.status, c.why))
            + "</tr>"
            for c in self.checks
        )
        title = escape(verdict_lines(self.about, self.checks)[0])
        return f"<p>{title}</p><table><tr>{head}</tr>{rows}</table>"

    def store(self, run: RunFolder) -> None:
        """Write ``evaluation.json`` and ``results/evaluation.npz`` into a run folder."""
        run.save_arrays(RESULTS, self.arrays)
        found = {
            "about": self.about,
            "checks": [asdict(check) | {"measured": check.measured} for check in self.checks],
            "values": self.values,
            "margins": self.margins,
        }
        run.save_json(FILE, found)


def load_evaluation(path: str | Path = "latest", *, runs_root: str | Path = Path("runs")) -> Evaluation:
    """What ``microtome decompose evaluate`` stored in a run. Raises ``CannotLoad`` before that."""
    run = open_run(str(path), runs_root=runs_root, want="decompose")
    if not (run.path / FILE).is_file():
        raise CannotLoad(f"{run.path}: not evaluated yet; run `microtome decompose evaluate {run.path}`")
    return stored_evaluation(run)


def stored_evaluation(run: RunFolder) -> Evaluation:
    """The evaluation that a run folder holds."""
    found = run.load_json(FILE)
    checks = tuple(_check(row) for row in found["checks"])
    return Evaluation(
        found["about"], checks, _numbers(found["values"]), found["margins"], run.load_arrays(RESULTS), run
    )


def _check(row: Mapping[str, Any]) -> Check:
    fields = {key: value for key, value in row.items() if key != "measured"}
    fields["by_seed"] = tuple(fields["by_seed"])
    for key in ("values", "margins"):
        if fields[key] is not None:
            fields[key] = tuple(np.nan if value is None else value for value in fields[key])
    return Check(**fields)


def _numbers(values: Mapping[str, Sequence[float | None]]) -> dict[str, list[float]]:
    """JSON has no word for what is not a number."""
    return {name: [np.nan if v is None else v for v in found] for name, found in values.items()}
