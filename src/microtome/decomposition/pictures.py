"""Draws every picture that a run folder's stored arrays allow, and nothing that would need the model again.

Read from ``results/`` (K seeds lead every array); a file that is missing leaves its pictures out:

- ``weights.npz``: ``target/<site>`` [K, d_in, d_out], ``left/<site>`` [K, C, d_in, m],
  ``right/<site>`` [K, C, m, d_out].
- ``causal_importance.npz``: ``lower/<site>`` and ``upper/<site>`` [K, n, C] on inputs with one feature on;
  optionally ``frequency/<site>`` [K, C], ``histogram/<site>`` [K, bins] with ``histogram_edges`` [bins + 1].
- ``recovery.npz``: ``cosine`` and ``ratio`` [K, n]; optionally ``recovered`` [K].
- ``attributions.npz``: ``features`` [K, n, C] with one feature on; optionally ``batch`` [K, B, C],
  ``selected`` [K, B, C] and ``features_on`` [K, B].
- ``embedding.npz``: ``W_E`` [K, n, d_embed], ``W_U`` [K, d_embed, n] of a residual MLP.
- ``classes.npz``: ``importance/<site>`` [K, n_classes, C] and ``image_shape`` [2], for image classifiers.
- what ``interpret.compute`` adds.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from microtome.core.runs import RunFolder
from microtome.decomposition.interpret import draw_general, draw_resid_mlp, draw_tms
from microtome.decomposition.interpret.stored import LeftOut, Picture, Stored

# File in results/ -> why it may not be there.
_ABSENT = {
    "weights": "no weights are stored in this run",
    "recovery": "needs a toy model of superposition (TMS)",
    "causal_importance": "needs SPD's gates",
    "attributions": "needs APD's attributions",
    "embedding": "needs a residual MLP",
    "classes": "needs the digits classifier",
}

# In reading order.
CATALOGUE: dict[str, Picture] = {
    picture.name: picture
    for picture in (*draw_tms.PICTURES, *draw_general.PICTURES, *draw_resid_mlp.PICTURES)
}


def draw_all(run: RunFolder) -> list[Path]:
    """Draw what every decomposition stores at its end; the pictures' paths in reading order."""
    stored = Stored.of(run)
    basic = [name for name, picture in CATALOGUE.items() if picture.basic]
    return draw(stored, basic)[0]


def redraw(path: str | Path) -> list[Path]:
    """Draw all that a run folder stores again. Raises ``CannotLoad`` when it is no run."""
    return draw(Stored.of(RunFolder.open(path)))[0]


def draw(
    stored: Stored,
    names: Iterable[str] | None = None,
    dpi: int = 150,
    drawn: Callable[[], None] = lambda: None,
) -> tuple[list[Path], dict[str, str]]:
    """Draw the named pictures into the run; their paths, and why each of the others was left out."""
    paths: list[Path] = []
    left_out: dict[str, str] = {}
    for name in CATALOGUE if names is None else names:
        picture = CATALOGUE[name]
        missing = [need for need in picture.needs if not stored.arrays(need)]
        if missing:
            untold = f"results/{missing[0]}.npz is not there; run `microtome interpret`"
            left_out[name] = _ABSENT.get(missing[0], untold)
        else:
            try:
                for file, figure in picture.draw(stored):
                    paths.append(stored.run.save_figure(file, figure, dpi=dpi))
            except LeftOut as reason:
                left_out[name] = str(reason)
        drawn()
    return paths, left_out
