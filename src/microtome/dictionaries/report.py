"""What a run of dictionaries writes beside them: numbers, pictures, and warnings."""

from collections.abc import Mapping
from typing import Any

from microtome.core.device import say
from microtome.core.runs import RunFolder
from microtome.dictionaries import plots
from microtome.dictionaries.dictionary import Dictionary
from microtome.dictionaries.evaluate import Evaluation, evaluate
from microtome.dictionaries.evaluate_config import DictionaryEvaluateConfig
from microtome.dictionaries.train_config import DictionaryTrainConfig
from microtome.targets.language_model import LanguageModel

SHARED = (
    "site",
    "text_field",
    "max_length",
    "texts_at_once",
    "skip_first",
    "max_norm_multiple",
    "dataset",
    "device",
)


def draw_training(run: RunFolder) -> None:
    """``plots/training.png`` from the run's metrics."""
    rows = run.metrics()
    names = [key.removesuffix("/fvu") for key in rows[-1] if key.endswith("/fvu")] if rows else []
    if names:
        run.save_figure("training", plots.training_curves(rows, names))


def evaluate_run(
    run: RunFolder, lm: LanguageModel, dictionaries: Mapping[str, Dictionary], config: DictionaryTrainConfig
) -> dict[str, Any]:
    """Measure a run's dictionaries on held-out text and write the results into the run; the summary."""
    settings = DictionaryEvaluateConfig.from_mapping(
        {name: getattr(config, name) for name in SHARED}
        | {"split": held_out_split(config.split), "fit_split": config.split}
    )
    return write_evaluation(run, evaluate(lm, dictionaries, settings))


def held_out_split(split: str) -> str:
    """The part of the text to judge by: ``test`` after training on ``train``; otherwise there is no other."""
    return "test" if split == "train" else split


def write_evaluation(run: RunFolder, result: Evaluation) -> dict[str, Any]:
    """``results/evaluation.json|npz`` and the pictures; warnings are said; the numbers for the summary."""
    run.save_json("results/evaluation.json", {"dictionaries": result.numbers, "warnings": result.warnings})
    arrays = {f"density/{name}": values for name, values in result.density.items()}
    arrays |= {f"pca_fvu/{name}": values for name, values in result.pca.items()}
    run.save_arrays("evaluation", {key.replace("/", "."): value for key, value in arrays.items()})
    numbers = list(result.numbers.values())
    names = list(result.numbers)
    run.save_figure("density", plots.densities(result.density, result.n_inputs))
    run.save_figure(
        "quality",
        plots.quality(
            names,
            [row["l0"] for row in numbers],
            [row["fvu"] for row in numbers],
            [result.pca[name] for name in names],
        ),
    )
    for line in result.warnings:
        say(f"WARNING: {line}")
    told = ("fvu", "l0", "dead_share", "loss_recovered")
    return {name: [row[name] for row in numbers] for name in told if name in numbers[0]} | {
        "dictionaries": names,
        "warnings": result.warnings,
    }


def table(result: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The numbers as lines of a table."""
    columns = {
        "L0": ("l0", "{:.1f}"),
        "FVU": ("fvu", "{:.3f}"),
        "PCA": ("pca_fvu", "{:.3f}"),
        "rank": ("pca_rank", "{}"),
        "dead": ("dead", "{:,}"),
        "features": ("n_features", "{:,}"),
        "recovered": ("loss_recovered", "{:.3f}"),
        "from mean": ("loss_recovered_from_mean", "{:.3f}"),
    }
    rows = [["dictionary", *columns]]
    for name, numbers in result.items():
        cells = [
            form.format(numbers[key]) if numbers.get(key) is not None else "-"
            for key, form in columns.values()
        ]
        rows.append([name, *cells])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
