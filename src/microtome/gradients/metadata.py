"""``metadata.json`` and the npz file's ``metadata``: nested blocks and flat keys of one run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from microtome import __version__
from microtome.gradients.config import FeaturesConfig, GradientConfig
from microtome.gradients.measured import nested_statistics
from microtome.gradients.names import Entry, Kind, attribution_key

TRUST = (
    "attribution (gradient times activation, summed where a feature fires) predicts what removing the feature"
    " does to the loss; mean_abs and mean gradients count every position, also where the feature does not"
    " fire, and predict it far less well (--validate N measures by how much)"
)


@dataclass(frozen=True)
class RunFacts:
    """What a run knows besides its configuration."""

    kind: Kind
    layers: list[int]
    layer_words: str
    model_type: str
    site: str
    device: str
    timestamp: str
    samples: int
    positions: int
    loss: float | None
    processes: int
    dataset: str
    module_paths: Mapping[int, str]
    dictionaries: Mapping[int, dict[str, Any]]
    top_token_share: Mapping[int, float]


def flat_metadata(config: GradientConfig, facts: RunFacts, sizes: Mapping[int, int]) -> dict[str, Any]:
    """The keys that the npz file's ``metadata`` documents, and ours."""
    return {
        "model_name": config.model_name,
        "num_samples": config.num_samples,
        "batch_size": config.batch_size,
        "max_length": config.max_length,
        "layers": list(facts.layers),
        "aggregation_mode": config.aggregation_mode,
        "normalized": config.normalize_gradients != "none",
        "normalization_mode": config.normalize_gradients,
        "aggregate_by": config.aggregate_by,
        "power": config.power,
        "device": facts.device,
        "timestamp": facts.timestamp,
        "dimension_sizes": {int(layer): int(size) for layer, size in sizes.items()},
        "analysis": facts.kind,
        "samples": facts.samples,
        "positions": facts.positions,
        "loss": facts.loss,
        "sae_path": config.sae_path if isinstance(config, FeaturesConfig) else None,
    }


def nested_metadata(
    config: GradientConfig,
    facts: RunFacts,
    arrays: Mapping[Entry, np.ndarray],
    timing: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything in ``metadata.json``: the original's blocks, then the flat keys."""
    sizes = {entry.layer: len(values) for entry, values in arrays.items()}
    statistics = {
        f"layer_{layer}": nested_statistics(
            {(entry.mode, entry.ending): values for entry, values in arrays.items() if entry.layer == layer}
        )
        for layer in facts.layers
    }
    return {
        "experiment_info": {
            "analysis": facts.kind,
            "model_name": config.model_name,
            "model_type": facts.model_type,
            "timestamp": facts.timestamp,
            "device": facts.device,
            "processes": facts.processes,
            "tool": f"microtome {__version__}",
        },
        "analysis_config": {
            **config.as_dict(),
            "layers": list(facts.layers),
            "layers_given": config.layers,
            "site": facts.site,
            "dataset": facts.dataset,
            "normalized": config.normalize_gradients != "none",
            "normalization_mode": config.normalize_gradients,
        },
        "timing_stats": timing["overall"],
        "per_layer_timing": timing["per_layer"],
        "layer_statistics": statistics,
        "dimension_info": {
            "dimension_sizes": {str(layer): size for layer, size in sizes.items()},
            "dimension_type": "dictionary features" if facts.kind == "features" else "activation dimensions",
            "module_paths": {str(layer): path for layer, path in facts.module_paths.items()},
            "dictionaries": {str(layer): about for layer, about in facts.dictionaries.items()},
        },
        "data_info": {
            "samples": facts.samples,
            "positions": facts.positions,
            "loss": facts.loss,
            "gradient_share_of_top_0.1_percent_tokens": {
                str(layer): share for layer, share in facts.top_token_share.items()
            },
        },
        "loading_instructions": _instructions(config, facts, arrays),
        **flat_metadata(config, facts, sizes),
    }


def _instructions(
    config: GradientConfig, facts: RunFacts, arrays: Mapping[Entry, np.ndarray]
) -> dict[str, Any]:
    first = next(iter(arrays))
    told: dict[str, Any] = {
        "python": "from microtome.gradients import load; result = load('FOLDER'); result.top(20)",
        "consolidated": "data = np.load('consolidated_results.npz', allow_pickle=True);"
        f" metadata = data['metadata'].item(); values = data['{first.key}']",
        "individual": f"np.load('{first.key}_{config.aggregate_by}.npy')",
        "keys": [entry.key for entry in arrays],
    }
    if facts.kind == "features":
        told["which_score_to_trust"] = TRUST
        told["attribution"] = f"np.load('{attribution_key(first.layer)}.npy')"
    return told
