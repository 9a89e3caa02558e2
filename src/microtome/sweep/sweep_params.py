"""The later SPD code's ``sweep_params.yaml``: ``global`` and one section for each experiment, all grids."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from microtome.core.config_keys import nearest
from microtome.core.errors import MicrotomeError
from microtome.sweep.parameters import read_numbers

GLOBAL = "global"
LISTS = {"loss_metric_configs": "classname", "eval_metric_configs": "classname"}

# Loss class of the later SPD code -> the coefficient it has here.
_COEFFICIENTS = {
    "FaithfulnessLoss": "faithfulness_coeff",
    "StochasticReconLoss": "stochastic_recon_coeff",
    "StochasticReconLayerwiseLoss": "stochastic_recon_layerwise_coeff",
    "CIMaskedReconLoss": "recon_coeff",
    "CIMaskedReconLayerwiseLoss": "recon_layerwise_coeff",
    "ImportanceMinimalityLoss": "importance_minimality_coeff",
}
_SHAPES = ("pnorm", "p_anneal_start_frac", "p_anneal_final_p", "p_anneal_end_frac")
OURS = {f"loss_metric_configs.{name}.coeff": field for name, field in _COEFFICIENTS.items()}
OURS |= {f"loss_metric_configs.ImportanceMinimalityLoss.{name}": name for name in _SHAPES}


def is_sweep_params(mapping: Mapping[str, Any]) -> bool:
    """Whether a file is of this form: sections of ``values`` and none of W&B's keys."""
    if {"parameters", "method", "program"} & set(mapping):
        return False
    return GLOBAL in mapping or (
        bool(mapping) and all(isinstance(section, (Mapping, type(None))) for section in mapping.values())
    )


def experiment_grids(
    mapping: Mapping[str, Any], experiments: Sequence[str], source: str
) -> dict[str, dict[str, list[Any]]]:
    """For each experiment (a recipe's name) the values to try of every field, in the file's order.

    The section of an experiment is laid over ``global``. Without ``experiments``, every experiment that
    has a section. Raises ``MicrotomeError``.
    """
    sections = [str(name) for name in mapping if name != GLOBAL]
    chosen = list(experiments) or sections
    if not chosen:
        raise MicrotomeError(f"{source}: has only a global section; say which with --experiments tms_5-2,...")
    grids = {}
    for name in chosen:
        if not mapping.get(GLOBAL) and name not in sections:
            near = nearest(name, sections)
            mend = f"did you mean {near}?" if near else f"sections: {', '.join(sections)}"
            raise MicrotomeError(f"--experiments {name}: {source} says nothing about it; {mend}")
        merged = _merge(mapping.get(GLOBAL) or {}, mapping.get(name) or {}) if name != GLOBAL else {}
        grid: dict[str, list[Any]] = {}
        _collect(read_numbers(merged), (), grid, f"{source}: {name}")
        if not grid:
            raise MicrotomeError(
                f"{source}: {name}: no values to try; write lines like `seed: {{values: [0, 1]}}`"
            )
        grids[name] = grid
    return grids


def as_parameters(grid: Mapping[str, list[Any]]) -> dict[str, Any]:
    """The grid as the ``parameters`` section of a sweep."""
    return {name: {"values": values} for name, values in grid.items()}


def _merge(base: Any, over: Any) -> Any:
    if isinstance(base, Mapping) and isinstance(over, Mapping) and "values" not in over:
        merged = {key: copy.deepcopy(value) for key, value in base.items()}
        for key, value in over.items():
            merged[key] = _merge(merged[key], value) if key in merged else copy.deepcopy(value)
        return merged
    if isinstance(base, list) and isinstance(over, list):
        items = {
            item["classname"]: item for item in base if isinstance(item, Mapping) and "classname" in item
        }
        for item in over:
            name = item.get("classname") if isinstance(item, Mapping) else None
            items[name] = _merge(items[name], item) if name in items else item
        return list(items.values())
    return copy.deepcopy(over)


def _collect(section: Any, path: tuple[str, ...], grid: dict[str, list[Any]], source: str) -> None:
    name = ".".join(path)
    if isinstance(section, Mapping) and set(section) == {"values"}:
        if not isinstance(section["values"], list) or not section["values"]:
            raise MicrotomeError(
                f"{source}: {name}.values={section['values']!r}: give a list of values to try"
            )
        grid[OURS.get(name, name)] = section["values"]
    elif isinstance(section, Mapping):
        for key, value in section.items():
            _collect(value, (*path, str(key)), grid, source)
    elif isinstance(section, list) and path and path[-1] in LISTS:
        for item in section:
            if not isinstance(item, Mapping) or not isinstance(item.get("classname"), str):
                raise MicrotomeError(
                    f"{source}: {name}: {item!r} has no classname; each item of the list needs one"
                )
            for key, value in item.items():
                if key != "classname":
                    _collect(value, (*path, item["classname"], str(key)), grid, source)
    else:
        raise MicrotomeError(
            f"{source}: {name}={section!r}: not a list of values; write `values: [{section}]`"
        )
