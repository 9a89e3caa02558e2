"""From settings to a plan: the model, its layers, the dictionaries, the texts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from microtome.core.device import set_threads
from microtome.core.distributed import Processes, process_device
from microtome.core.errors import CannotLoad, MicrotomeError, bad_value
from microtome.core.runs import RunFolder, find_latest, list_runs
from microtome.data.text import TokenBatch, read_texts
from microtome.dictionaries.check import WORST, explained_variance, fitting_site
from microtome.dictionaries.formats.opening import open_dictionary
from microtome.dictionaries.stored import DictionaryFile
from microtome.gradients.accumulate import Plan
from microtome.gradients.active_pairs import reconstruct
from microtome.gradients.chunks import special_ids
from microtome.gradients.config import FeaturesConfig, GradientConfig
from microtome.gradients.layer_sums import QUANTITIES
from microtome.gradients.names import modes_of
from microtome.gradients.passes import activations
from microtome.targets.language_model import DTYPES, LanguageModel, load_language_model
from microtome.targets.layer_list import choose_layers
from microtome.targets.module_paths import SITES

# Where the original looked for the dictionaries of its default model.
ORIGINAL_ROOT = "dictionary_learning_demo/._qwen2.5_0.5B_Qwen_Qwen2.5-0.5B_batch_top_k_tokens500M"
ORIGINAL_SAES = ORIGINAL_ROOT + "/mlp_out_layer_{layer}/trainer_0"
TRAINED_MODEL, TRAINED_DICTIONARIES = "train-language-model", "dictionary"
CHECKED_POSITIONS = 256
NORM_TEXTS = 16  # texts from which the median length of activations is taken
SMALL_MODEL = 2e7  # parameters; below, a second thread costs more than it computes

Opened = Mapping[int, DictionaryFile]


@dataclass(frozen=True)
class Prepared:
    """What a run works with. ``opened`` tells of each layer's dictionary; its weights stay on disk."""

    plan: Plan
    layers: list[int]
    widths: dict[int, int]
    site: str
    dataset: str
    texts: list[str]
    opened: dict[int, dict[str, Any]] = field(default_factory=dict)


def resolve_names(config: GradientConfig, runs_root: Path) -> GradientConfig:
    """``latest`` as what it stands for now, so that a resumed run means the same."""
    changes: dict[str, Any] = {}
    if config.model_name == "latest":
        changes["model_name"] = str(find_latest(runs_root, TRAINED_MODEL))
    if isinstance(config, FeaturesConfig):
        changes["sae_path"] = find_dictionaries(config.sae_path, runs_root)
    return config.model_copy(update=changes)


def find_dictionaries(sae_path: str | None, runs_root: Path) -> str:
    """The given path; without one, where the original looked, or the newest that microtome trained."""
    if sae_path is not None and sae_path != "latest":
        return sae_path
    if sae_path is None and Path(ORIGINAL_ROOT).is_dir():
        return ORIGINAL_SAES
    trained = [run for run in list_runs(runs_root, TRAINED_DICTIONARIES) if run.kind == TRAINED_DICTIONARIES]
    if trained:
        return str(trained[-1].path)
    raise MicrotomeError(
        f"sae_path={sae_path!r}: no dictionaries given and none trained under {runs_root}; name a folder,"
        " a path with {layer} or a hub name, or train some with `microtome dictionary train`"
    )


def load_model(config: GradientConfig, processes: Processes, runs_root: Path) -> LanguageModel:
    """The language model of the settings, on this process' device."""
    device = "cpu" if config.device_map is not None else str(process_device(config.device, processes))
    lm = load_language_model(
        config.model_name,
        device=device,
        dtype=config.dtype,
        device_map=config.device_map,
        site_path=config.module_path,
        runs_root=runs_root,
    )
    choose_threads(lm, config.threads)
    return lm


def choose_threads(lm: LanguageModel, threads: int | None) -> None:
    """One thread for a small model, unless a number is given."""
    small = sum(parameter.numel() for parameter in lm.model.parameters()) < SMALL_MODEL
    set_threads(threads, small=small)


def texts_of(config: GradientConfig, runs_root: Path = Path("runs")) -> tuple[list[str], str]:
    """The samples, and the name of the dataset they came from."""
    dataset = config.dataset or ("builtin" if _trained_here(config.model_name, runs_root) else "wikitext")
    return read_texts(
        dataset, text_field=config.text_field, split=config.split, limit=config.num_samples
    ), dataset


def prepare(
    config: GradientConfig,
    lm: LanguageModel,
    texts: list[str],
    dataset: str,
    opener: Callable[[int], DictionaryFile] | None,
    note: Callable[[str], None],
) -> Prepared:
    """Check the settings against the model and the dictionaries. Raises ``MicrotomeError`` in one line."""
    layers = choose_layers(config.layers, lm.n_layers)
    features = isinstance(config, FeaturesConfig)
    first = opener(layers[0]) if opener is not None else None
    site = config.site or (first.config.site if first is not None else None) or "mlp"
    if first is not None and config.site and first.config.site not in (None, config.site):
        note(f"site={config.site}: {first.source} says it was trained on {first.config.site}")
    paths = {layer: lm.path(layer, site) for layer in layers}
    widths, told = dict.fromkeys(layers, lm.d_model), {}
    if opener is not None:
        opened = {layer: opener(layer) for layer in layers}
        for layer, dictionary in opened.items():
            _check_width(dictionary, lm, layer)
        widths = {layer: dictionary.config.n_features for layer, dictionary in opened.items()}
        told = {layer: describe(dictionary) for layer, dictionary in opened.items()}
    plan = Plan(
        lm=lm,
        paths=paths,
        quantities=quantities_of(config),
        dictionaries=opener,
        reconstruction=isinstance(config, FeaturesConfig) and config.sae_mode == "reconstruction",
        stride=config.position_stride,
        loss_scale=config.loss_scale,
        leave_out=frozenset(special_ids(lm.tokenizer)) if config.skip_special_tokens else frozenset(),
        checkpointing=config.activation_checkpointing,
        dtype=product_dtype(config),
        magnitudes=not features or wants_magnitudes(config),
        activations=needs_activations(config, told),
        top_tokens=config.top_tokens,
    )
    return Prepared(plan, layers, widths, site, dataset, texts, told)


def quantities_of(config: GradientConfig) -> list[str]:
    """What is summed: everything that costs little beside what was asked for."""
    if not isinstance(config, FeaturesConfig):
        return ["gradients", "attribution", "values"]
    if config.attribution or config.aggregate_by != "gradients":
        return list(QUANTITIES)
    return ["gradients"]


def wants_magnitudes(config: GradientConfig) -> bool:
    """Whether mean absolute gradients of all features are asked for: the costly product with the decoder."""
    return config.aggregate_by == "gradients" and "mean_abs" in modes_of(config.aggregation_mode)


def needs_activations(config: GradientConfig, told: Mapping[int, Mapping[str, Any]]) -> bool:
    """Whether the dictionaries have to see the activations: to encode them, or for their length."""
    scaled = any(about["normalisation"] != "none" for about in told.values())
    return scaled or len(quantities_of(config)) > 1


def product_dtype(config: GradientConfig) -> torch.dtype:
    """Number type of the products with encoder and decoder."""
    chosen = (config.sae_dtype if isinstance(config, FeaturesConfig) else None) or config.dtype
    return DTYPES[chosen]


def describe(dictionary: DictionaryFile) -> dict[str, Any]:
    """What the metadata tells of a dictionary."""
    c = dictionary.config
    return {
        "source": str(dictionary.source),
        "format": dictionary.format,
        "architecture": c.architecture,
        "n_features": c.n_features,
        "k": c.k,
        "site": c.site,
        "normalisation": c.normalisation,
    }


def norm_limits(plan: Plan, batches: Sequence[TokenBatch], multiple: float) -> dict[int, float]:
    """``multiple`` times the median length of each layer's activations, over the given batches."""
    lengths: dict[int, list[torch.Tensor]] = {layer: [] for layer in plan.paths}
    for batch in batches:
        real = batch.attention_mask.bool()
        for layer, x in activations(plan.lm, batch, plan.paths).items():
            lengths[layer].append(x[real.to(x.device)].float().norm(dim=1).cpu())
    return {layer: multiple * float(torch.cat(found).median()) for layer, found in lengths.items()}


def check_dictionaries(
    plan: Plan, batch: TokenBatch, told: dict[int, dict[str, Any]], worst: float = WORST
) -> None:
    """See that each dictionary reconstructs its layer's activations on one batch; writes what it explains.

    Raises ``MicrotomeError`` for one that does not, naming the site that fits better.
    """
    assert plan.dictionaries is not None
    found = activations(plan.lm, batch, plan.paths)
    real = batch.attention_mask.bool()
    for layer in plan.paths:
        x = found.pop(layer)
        x = x[real.to(x.device)][:CHECKED_POSITIONS].float()
        dictionary = plan.dictionaries(layer)
        explained = explained_variance(x, reconstruct(dictionary, x))
        told[layer]["explained_variance"] = explained
        if not explained >= worst:
            raise _unfit(plan, batch, layer, explained)


def _unfit(plan: Plan, batch: TokenBatch, layer: int, explained: float) -> MicrotomeError:
    assert plan.dictionaries is not None
    lm, dictionary = plan.lm, plan.dictionaries(layer)
    assert isinstance(dictionary, DictionaryFile)
    real = batch.attention_mask.bool()
    sites = {}
    for site in () if lm.module_path else SITES:
        values = activations(lm, batch, {layer: lm.path(layer, site)})[layer]
        sites[site] = values[real.to(values.device)][:CHECKED_POSITIONS].float()
    problem = f"explains {explained:.2f} of the variance of {plan.paths[layer]}"
    mend = "it belongs to another layer or model, or --no_check_dictionary takes it as it is"
    if sites:
        best, scores = fitting_site(dictionary, sites)
        if scores[best] >= WORST:
            mend = f"use --site {best}, of which it explains {scores[best]:.2f}"
    return MicrotomeError(f"{dictionary.source}: {problem}; {mend}")


def opener_of(sae_path: str, site: str | None) -> Callable[[int], DictionaryFile]:
    """Opens the dictionary of a layer anew each time, so that its pages are let go when it is done with."""
    return lambda layer: open_dictionary(sae_path, layer, site)


def _check_width(dictionary: DictionaryFile, lm: LanguageModel, layer: int) -> None:
    if dictionary.config.d_in != lm.d_model:
        raise bad_value(
            "sae_path",
            str(dictionary.source),
            f"layer {layer}'s dictionary reads {dictionary.config.d_in} dimensions, not {lm.d_model}",
            f"give dictionaries of {lm.name}",
        )


def _trained_here(model_name: str, runs_root: Path) -> bool:
    for path in (Path(model_name), Path(model_name).parent, runs_root / model_name):
        try:
            if RunFolder.open(path).kind == TRAINED_MODEL:
                return True
        except (CannotLoad, OSError):
            continue
    return False
