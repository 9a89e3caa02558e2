"""What ``interpret`` hands back: figures, numbers and tables of one decomposition."""

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from microtome.core.config_keys import nearest
from microtome.core.errors import CannotLoad, bad_value
from microtome.core.references import open_run
from microtome.core.runs import RunFolder
from microtome.decomposition.interpret.config import InterpretConfig
from microtome.decomposition.interpret.stored import LeftOut, Stored
from microtome.decomposition.pictures import CATALOGUE

if TYPE_CHECKING:
    import pandas as pd

FILE = "results/interpretation.json"


@dataclass(frozen=True)
class Interpretation:
    """Everything that was computed of a decomposition, read from its run folder when asked for.

    ``numbers``: measures by name, a value for each of the K networks. ``left_out``: why pictures are missing.
    """

    run: RunFolder
    config: InterpretConfig
    numbers: dict[str, Any]
    left_out: dict[str, str]
    files: list[Path]

    def figures(self) -> list[str]:
        """The names of the figures that ``plot`` can draw."""
        return [name for name in self.config.only or CATALOGUE if name not in self.left_out]

    def plot(self, name: str) -> Figure:
        """One figure (the first of a family). Raises ``MicrotomeError`` saying why one is left out."""
        check_names([name])
        if name in self.left_out:
            raise bad_value("name", name, self.left_out[name], f"there are {', '.join(self.figures())}")
        stored = Stored.of(self.run, self.config)
        try:
            for _, figure in CATALOGUE[name].draw(stored):
                return figure
        except (LeftOut, KeyError) as reason:
            raise bad_value("name", name, str(reason), "run `microtome interpret` on this run") from None
        raise bad_value("name", name, "nothing to draw", f"there are {', '.join(self.figures())}")

    def arrays(self, name: str) -> dict[str, Any]:
        """The arrays of ``results/<name>.npz``. Raises ``CannotLoad`` when there are none."""
        return self.run.load_arrays(name)

    def frame(self) -> "pd.DataFrame":
        """Every number as a row: measure, instance, value."""
        import pandas as pd

        rows = [
            {"measure": measure, "instance": instance, "value": value}
            for measure, values in flat(self.numbers).items()
            for instance, value in enumerate(values)
        ]
        return pd.DataFrame(rows, columns=pd.Index(["measure", "instance", "value"]))

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{escape(name)}</td><td>{escape(', '.join(map(_words, values)))}</td></tr>"
            for name, values in flat(self.numbers).items()
        )
        head = "<tr><th>measure</th><th>value (one a network or seed)</th></tr>"
        figures = escape(", ".join(self.figures()))
        title = escape(f"Interpretation of {self.run.path.name}")
        return f"<p>{title}</p><table>{head}{rows}</table><p>Figures: {figures}</p>"


def load_interpretation(
    path: str | Path = "latest", *, runs_root: str | Path = Path("runs")
) -> Interpretation:
    """What ``microtome interpret`` stored in a run folder. Raises ``CannotLoad`` before it has run."""
    run = open_run(str(path), runs_root=runs_root, want="decompose")
    if not (run.path / FILE).is_file():
        raise CannotLoad(f"{run.path}: not interpreted yet; run `microtome interpret {run.path}`")
    found = run.load_json(FILE)
    config = InterpretConfig.from_mapping(found["settings"], FILE)
    files = [run.path / name for name in found["files"]]
    return Interpretation(run, config, found["numbers"], found["left_out"], files)


def check_names(names: list[str] | tuple[str, ...]) -> None:
    """Raise ``MicrotomeError``, naming the nearest, unless every figure exists."""
    for name in names:
        if name not in CATALOGUE:
            near = nearest(name, list(CATALOGUE))
            mend = f"did you mean {near}?" if near else f"there are {', '.join(CATALOGUE)}"
            raise bad_value("only", name, "no such figure", mend)


def flat(numbers: dict[str, Any], prefix: str = "") -> dict[str, list[Any]]:
    """Lists of values by dotted name."""
    rows: dict[str, list[Any]] = {}
    for key, value in numbers.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            rows |= flat(value, f"{name}.")
        else:
            rows[name] = value if isinstance(value, list) else [value]
    return rows


def _words(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "unknown"
