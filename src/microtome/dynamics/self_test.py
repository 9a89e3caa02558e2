"""The test that the original infrastructure printed about itself."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from microtome.core.errors import CannotLoad
from microtome.dynamics.checkpoint_manager import RUNS
from microtome.dynamics.experiments import Experiments

EXPERIMENT = "transformer_deep_mnist"


def torch_is_there() -> bool:
    """Whether PyTorch can be imported, without importing it."""
    try:
        return importlib.util.find_spec("torch") is not None
    except (ImportError, ValueError):
        return False


def lines(experiments_dir: str | Path, experiment: str = EXPERIMENT) -> Iterator[str]:
    """What it says, line by line, of the three largest jumps of one experiment. Raises ``MicrotomeError``."""
    if not torch_is_there():
        yield "Note: PyTorch not available. Some features will be limited."
    yield "Initializing Phase 2 Infrastructure..."
    experiments = Experiments(experiments_dir)
    yield f"Testing with {experiment}..."
    summary = experiments.get_experiment_summary(experiment)
    yield "Experiment Summary:"
    yield f"  Jumps: {summary['num_jumps']}"
    yield f"  Mean magnitude: {summary['jump_summary']['mean_magnitude']:.6f}"
    yield "Identifying critical moments..."
    moments = experiments.identify_moments(experiment, num_jumps=3)
    yield f"Identified {len(moments)} critical moments"
    if len(moments) >= 2:
        yield "Comparing first two moments..."
        result = experiments.compare_representations(moments[0], moments[1])
        yield f"Loss change: {result.measurements['loss_change']:.4f}"
        yield f"Layers analyzed: {len(result.measurements['layer_changes'])}"
    yield "✓ Infrastructure initialized and tested successfully!"


def find_experiments(start: str | Path = ".") -> Path:
    """The experiments folder: ``start`` or one above it. Raises ``CannotLoad``."""
    start = Path(start).resolve()
    for folder in (start, *list(start.parents)[:2]):
        if any(place and (folder / place).is_dir() for place in RUNS[:1]):
            return folder
    raise CannotLoad(
        f"{start}: no experiments folder (no {RUNS[0]} in it); name it: microtome dynamics self-test FOLDER"
    )
