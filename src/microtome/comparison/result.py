"""A finished comparison: its tidy table, its judged claims, and the files that hold them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from microtome.comparison.part import Claim, Part, Row
from microtome.comparison.saved import frame, load_part, save_table
from microtome.comparison.statistics import Judged, judge
from microtome.core.atomic import atomic_path
from microtome.core.errors import CannotLoad
from microtome.core.runs import RunFolder

KIND = "comparison"
RESULTS = "results.json"
# What networks compute before how they do it.
READING_ORDER = ("adaptation", "probes", "similarity", "features", "activations", "weights")


@dataclass(frozen=True)
class Comparison:
    """Everything that a comparison found. ``parts`` maps ``weights``, ``after_adaptation/probes``, ... ."""

    folder: RunFolder
    parts: Mapping[str, Part]
    facts: Mapping[str, Any]

    def __repr__(self) -> str:
        """One line, for notebooks: the parts hold every number."""
        judged = self.judged
        found = sum(one.distinguishable for one in judged)
        return (
            f"Comparison of {', '.join(self.facts.get('arms', {}))} ({', '.join(self.parts)}):"
            f" {found} of {len(judged)} differences above noise; {self.folder.path}"
        )

    @property
    def rows(self) -> list[Row]:
        """Every number, with the stage that it belongs to."""
        return [row for name, part in self.parts.items() for row in staged(name, part.rows)]

    @property
    def claims(self) -> list[Claim]:
        """Every difference that was tested."""
        return [claim for name, part in self.parts.items() for claim in _staged_claims(name, part.claims)]

    @property
    def judged(self) -> list[Judged]:
        """Every claim with its verdict, corrected for the number of claims of the whole report."""
        return judge(self.claims)

    @property
    def remarks(self) -> list[str]:
        """What the reader must know: dead dictionaries, layers left out, single seeds."""
        alone = [name for name, files in self.facts.get("arms", {}).items() if len(files) < 2]
        lines = [
            f"{' and '.join(alone)}: one network each; the spread over seeds is taken from untrained"
            " networks, and what is said is about these networks, not about how they were trained"
        ]
        lines = lines if alone else []
        return list(dict.fromkeys(lines + [line for part in self.parts.values() for line in part.remarks]))

    def frame(self) -> pd.DataFrame:
        """The tidy table: one row a number."""
        return frame(self.rows)

    def _repr_html_(self) -> str | None:
        return self.frame()._repr_html_()  # pyright: ignore[reportCallIssue]

    @property
    def headlines(self) -> list[str]:
        """One sentence a claim, those that stand first."""
        return [one.sentence for one in self.by_weight]

    @property
    def by_weight(self) -> list[Judged]:
        """The claims as a reader wants them: those that stand first, by what they are about, by p."""
        return sorted(
            self.judged,
            key=lambda one: (
                not one.distinguishable,
                READING_ORDER.index(one.claim.analysis),
                one.p_adjusted,
            ),
        )


def staged(name: str, rows: Sequence[Row]) -> list[Row]:
    """The rows of a part with its stage filled in."""
    stage = "after" if name.startswith(AFTER) else ""
    return [replace(row, stage=row.stage or stage) for row in rows]


def _staged_claims(name: str, claims: Sequence[Claim]) -> list[Claim]:
    if not name.startswith(AFTER):
        return list(claims)
    return [replace(claim, about=f"{claim.about}, after adaptation") for claim in claims]


AFTER = "after_adaptation/"


def save_results(comparison: Comparison) -> None:
    """Write ``results.json``, ``results.csv``, ``claims.csv`` and the summary that marks the run finished."""
    folder = comparison.folder
    judged = comparison.judged
    verdicts = [
        asdict(one.claim)
        | {
            "p_adjusted": one.p_adjusted,
            "distinguishable": one.distinguishable,
            "sentence": one.sentence,
        }
        for one in judged
    ]
    folder.save_json(
        RESULTS,
        {
            **comparison.facts,
            "headlines": comparison.headlines,
            "remarks": comparison.remarks,
            "claims": verdicts,
            "rows": [asdict(row) for row in comparison.rows],
        },
    )
    save_table(folder.path / "results.csv", comparison.rows)
    with atomic_path(folder.path / "claims.csv") as temporary:
        pd.DataFrame(verdicts).to_csv(temporary, index=False)
    folder.finish(
        {
            "arms": comparison.facts.get("arms"),
            "images": comparison.facts.get("images"),
            "claims_tested": len(judged),
            "claims_that_stand": sum(one.distinguishable for one in judged),
            "analyses": list(comparison.parts),
        }
    )


def load_comparison(path: str | Path) -> Comparison:
    """A finished comparison from its output folder. Raises ``CannotLoad``."""
    folder = RunFolder.open(path)
    if folder.kind != KIND:
        raise CannotLoad(f"{path}: a {folder.kind} run, not a comparison; give an output folder of compare")
    stored = folder.load_json(RESULTS)
    parts = {}
    for name in stored.get("analyses", []):
        part = load_part(folder, name)
        if part is None:
            raise CannotLoad(f"{path}: results/{name}.json is missing; run compare --resume {path}")
        parts[name] = part
    return Comparison(
        folder,
        parts,
        {k: v for k, v in stored.items() if k not in ("headlines", "remarks", "claims", "rows")},
    )
