"""Evaluating dictionaries on a language model's held-out text."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from microtome.core.device import resolve_device, set_threads, tune_allocator
from microtome.core.errors import CannotLoad, MicrotomeError
from microtome.core.references import parse_reference
from microtome.core.runs import RunFolder, timestamp
from microtome.data.text import TokenBatch, read_texts
from microtome.dictionaries.activations import LanguageModelSource, TokenChoice, site_name
from microtome.dictionaries.dictionary import Dictionary
from microtome.dictionaries.evaluate_config import DictionaryEvaluateConfig
from microtome.dictionaries.formats.opening import dictionaries_in, open_dictionary
from microtome.dictionaries.quality import QualityMeasure, warnings_about
from microtome.dictionaries.splice import loss_recovered, mean_loss
from microtome.targets.language_model import LanguageModel, load_language_model
from microtome.targets.layer_list import parse_layers

KIND = "evaluate-dictionary"  # not dictionary-...: `latest` means runs that hold dictionaries


@dataclass
class Evaluation:
    """Numbers by dictionary, arrays to draw, and what has to be said loudly."""

    numbers: dict[str, dict[str, Any]] = field(default_factory=dict)
    density: dict[str, np.ndarray] = field(default_factory=dict)
    pca: dict[str, np.ndarray] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    n_inputs: int = 0


@torch.no_grad()
def evaluate(
    lm: LanguageModel, dictionaries: Mapping[str, Dictionary], config: DictionaryEvaluateConfig
) -> Evaluation:
    """Measure every dictionary at its own layer and site (its configuration says which).

    Raises ``MicrotomeError`` when a dictionary has another width, or does not say where it belongs.
    """
    measures = {name: QualityMeasure(d.to(lm.device)) for name, d in dictionaries.items()}
    held_out = _source(lm, dictionaries, config, config.split)
    fitted = _source(lm, dictionaries, config, config.fit_split)
    for source, judged in ((fitted, False), (held_out, True)):
        for batch in _some(source.batches, config.max_tokens):
            rows = source.activations(batch)
            for name, measure in measures.items():
                (measure.add if judged else measure.fit)(rows[name])
    batches = _some(held_out.batches, config.max_tokens)
    clean = mean_loss(lm, batches) if config.splice else None
    result = Evaluation()
    for name, measure in measures.items():
        curve = measure.pca()
        quality = measure.result(curve)
        splice = None
        if config.splice:
            splice = loss_recovered(
                lm,
                dictionaries[name],
                held_out.paths[name],
                measure.fitted.mean,
                batches,
                held_out.choice,
                clean,
            )
        result.numbers[name] = quality.as_dict() | (splice or {})
        result.density[name] = measure.density.numpy()
        result.pca[name] = curve.numpy()
        result.warnings += warnings_about(name, quality, splice)
        result.n_inputs = measure.n_inputs
    return result


def _source(
    lm: LanguageModel,
    dictionaries: Mapping[str, Dictionary],
    config: DictionaryEvaluateConfig,
    split: str,
) -> LanguageModelSource:
    texts = read_texts(config.dataset, text_field=config.text_field, split=split)
    source = LanguageModelSource(
        lm,
        texts,
        [],
        "mlp",
        max_length=min(config.max_length, lm.context_length),
        texts_at_once=config.texts_at_once,
        choice=TokenChoice(config.skip_first, config.max_norm_multiple),
    )
    for name, dictionary in dictionaries.items():
        layer, site = dictionary.config.layer, config.site or dictionary.config.site
        if layer is None or site is None:
            raise MicrotomeError(
                f"{name}: the files do not say the layer and the site it belongs to; give --layers and --site"
            )
        source.paths[name] = lm.path(layer, site)
    return source


def _some(batches: Sequence[TokenBatch], max_tokens: int) -> list[TokenBatch]:
    """Batches from all lengths of text, not more than ``max_tokens`` tokens together."""
    order = np.random.default_rng(0).permutation(len(batches))
    chosen: list[TokenBatch] = []
    tokens = 0
    for number in order:
        batch = batches[number]
        tokens += int(batch.attention_mask.sum())
        if chosen and tokens > max_tokens:
            break
        chosen.append(batch)
    return chosen


def load_all(
    path: str, layers: Sequence[int] | None, site: str | None, device: torch.device | str = "cpu"
) -> dict[str, Dictionary]:
    """Dictionaries of a run, folder, file or hub name, by ``layers.{i}.{site}``. Raises ``CannotLoad``."""
    if layers is None:
        layers = dictionaries_in(path)
    found = [open_dictionary(path, layer, site) for layer in (layers or [None])]
    loaded: dict[str, Dictionary] = {}
    for file, layer in zip(found, layers or [None], strict=True):
        c = file.config
        own_layer, own_site = c.layer if layer is None else layer, site or c.site
        dictionary = file.load(device)
        dictionary.config = c.model_copy(update={"layer": own_layer, "site": own_site})
        name = str(file.source)
        if own_layer is not None and own_site is not None:
            name = site_name(own_layer, own_site)
        loaded[name] = dictionary
    return loaded


def evaluate_dictionaries(
    config: DictionaryEvaluateConfig,
    *,
    runs_root: str | Path = Path("runs"),
    out_dir: str | Path | None = None,
    command: Sequence[str] = (),
) -> tuple[RunFolder, Evaluation]:
    """Measure what ``config.path`` names and write a run with numbers and pictures.

    Raises ``MicrotomeError``.
    """
    from microtome.dictionaries.report import write_evaluation

    set_threads(config.threads, small=False)
    tune_allocator()
    path = _resolved(config.path, Path(runs_root))
    device = resolve_device(config.device)
    layers = None if config.layers in (None, "all") else parse_layers(config.layers)
    dictionaries = load_all(path, layers, config.site, device)
    model = config.model or _model_of(path, dictionaries)
    lm = load_language_model(
        model,
        device=str(device),
        dtype=config.model_dtype,
        device_map=config.device_map,
        site_path=config.module_path,
        runs_root=runs_root,
    )
    result = evaluate(lm, dictionaries, config)
    where = Path(out_dir) if out_dir else Path(runs_root) / f"dictionary_evaluation_{timestamp()}"
    run = RunFolder.create(
        where,
        config.model_copy(update={"path": path, "model": model}),
        command=command or sys.argv,
        device=str(device),
        kind=KIND,
    )
    run.finish(write_evaluation(run, result))
    return run, result


def _resolved(path: str, runs_root: Path) -> str:
    """``latest``, or the name of a run, as its folder; anything else as it is."""
    if path == "latest":
        return str(parse_reference(path, runs_root=runs_root, want="dictionary").path)
    run = runs_root / path
    return str(run) if not Path(path).expanduser().exists() and run.is_dir() else path


def _model_of(path: str, dictionaries: Mapping[str, Dictionary]) -> str:
    try:
        return str(RunFolder.open(path).config["model"])
    except (CannotLoad, MicrotomeError, KeyError):
        pass
    names = {d.config.model_name for d in dictionaries.values()} - {None}
    if len(names) != 1:
        raise MicrotomeError(f"{path}: does not say which language model it belongs to; give --model")
    return str(names.pop())
