"""What the command tells when an analysis is done."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from microtome.core.progress import duration
from microtome.gradients.metadata import TRUST
from microtome.gradients.result import GradientResult, strongest

if TYPE_CHECKING:
    from microtome.gradients.run import Finished

LAYERS_TOLD = 40
NAMED = 6


def told(finished: "Finished") -> Iterator[str]:
    """The lines: what was measured, the strongest values, which score to trust, where the files are."""
    result, facts = finished.result, finished.result.metadata
    loss = "" if facts.get("loss") is None else f", loss {facts['loss']:.3f} nats"
    yield (
        f"{facts['model_name']}: {len(result.layers)} layers, {facts['samples']} samples,"
        f" {facts['positions']:,} token positions{loss}, in {duration(finished.seconds)}."
    )
    yield from _strongest(result)
    if finished.validation is not None:
        yield from finished.validation.told()
    if result.kind == "features":
        yield f"Which score to trust: {TRUST}."
    if finished.npz is not None:
        yield f"All layers in one file: {finished.npz}"
    if finished.folder is not None:
        yield f"Results: {finished.folder.path}"
        yield f"One page about them: microtome gradients report {finished.folder.path}"
    elif finished.npz is None:
        yield "Nothing was written: --save_outputs writes a folder, --save_consolidated FILE one file."


def _strongest(result: GradientResult) -> Iterator[str]:
    what = "features" if result.kind == "features" else "dimensions"
    name = result.best_score
    yield f"Strongest {what} of each layer by {name.replace('_', ' ')} (per token position):"
    for layer in list(result.layers)[:LAYERS_TOLD]:
        values = result.score(layer)
        words = ", ".join(f"{i} ({values[i]:+.2e})" for i in strongest(values, NAMED).tolist())
        yield f"  layer {layer:>3}  {words}"
    if len(result.layers) > LAYERS_TOLD:
        yield f"  and {len(result.layers) - LAYERS_TOLD} layers more"
