"""``microtome compare-runs``: did two decompositions find the same components?"""

from collections.abc import Sequence
from pathlib import Path

from microtome.cli.flags import build, parse
from microtome.cli.recipes import find_config
from microtome.core.config import Config, read_yaml
from microtome.core.device import say
from microtome.core.errors import MicrotomeError


class Options(Config):
    """What belongs to the command."""

    runs_root: Path = Path("runs")
    """The folder that `latest` and run names are looked for in."""


def main(arguments: Sequence[str]) -> int:
    """Compare, print the numbers, and list the files."""
    from microtome.decomposition.interpret.compare_config import CompareConfig

    about = CompareConfig.__doc__ or ""
    usage = "compare-runs CURRENT REFERENCE | CONFIG.yaml"
    parsed = parse(arguments, usage, about, Options, CompareConfig)
    base, source = _base(parsed.positional)
    config = build(CompareConfig, base, parsed.values, source, note=say)
    from microtome.decomposition.interpret.compare import compare_runs

    made = compare_runs(config=config, runs_root=parsed.options.runs_root)
    for site, row in made.summary().items():
        print(
            f"{site}: {row['alive']} alive components, mean largest |cosine|"
            f" {row['mean_max_abs_cosine_sim']:.4f} (by chance {row['chance_mean']:.4f}"
            f" ± {row['chance_sd']:.4f}), matched one to one {row['matched_mean_abs_cosine']:.4f}"
        )
    assert made.run is not None
    for name in ("similarity_results.json", "plots/similarity.png", "results/comparison.npz"):
        print(f"Wrote {made.run.path / name}")
    return 0


def _base(words: Sequence[str]) -> tuple[dict[str, str], str]:
    """What the words before the flags stand for: nothing, a YAML file, or two runs."""
    if not words:
        return {}, "config"
    if len(words) == 1 and words[0].endswith((".yaml", ".yml")):
        path = find_config(words[0])
        return read_yaml(path), str(path)
    if len(words) != 2:
        raise MicrotomeError("compare-runs: takes two runs, or one YAML file; see --help")
    return {"current_model_path": words[0], "reference_model_path": words[1]}, "config"
