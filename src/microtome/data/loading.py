"""Making a data source again from the description saved with a run."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from microtome.core.errors import CannotLoad
from microtome.data.images import ArrayData, digits
from microtome.data.induction import InductionSequences
from microtome.data.sparse_features import SparseFeatures
from microtome.data.token_windows import windows_from_spec

DataSpec = dict[str, Any]


@runtime_checkable
class DataSource(Protocol):
    """Where a decomposition takes its inputs from."""

    def batch(
        self, batch_size: int, generator: torch.Generator | None = None, n_instances: int = 1
    ) -> Tensor:
        """Inputs ``[K, B, ...]``."""
        ...

    def spec(self) -> DataSpec:
        """JSON-able description."""
        ...


def data_from_spec(
    spec: Mapping[str, Any], device: str | torch.device = "cpu", tokenizer: Any = None
) -> DataSource:
    """The data source that ``spec()`` described; text needs the ``tokenizer`` of the language model.

    Raises CannotLoad for arrays that were given in memory and for unknown kinds.
    """
    settings = {key: value for key, value in spec.items() if key != "kind"}
    kind = spec.get("kind")
    if kind == "sparse_features":
        settings["value_range"] = tuple(settings.get("value_range", (0.0, 1.0)))
        return SparseFeatures(**settings, device=device)
    if kind == "digits":
        halves = digits()
        half = halves.test if settings.get("split") == "test" else halves.train
        if torch.device(device).type == "cpu":
            return half
        return ArrayData(half.x.to(device), None if half.y is None else half.y.to(device), half.source)
    if kind == "induction":
        return InductionSequences(**{**settings, "period": tuple(settings["period"])}, device=device)
    if kind == "token_windows":
        return _windows(spec, device, tokenizer)
    if kind == "arrays":
        raise CannotLoad(
            f"data of shape {spec.get('shape')} were given in memory and are not saved with the run; "
            "pass them again with data=..."
        )
    raise CannotLoad(f"data kind {kind!r} is unknown; pass the data yourself with data=...")


def held_out_from_spec(
    spec: Mapping[str, Any], device: str | torch.device = "cpu", tokenizer: Any = None
) -> DataSource:
    """What to measure on: held-out text or digits, fresh draws of a source that makes its inputs.

    Raises CannotLoad as ``data_from_spec`` does.
    """
    if spec.get("kind") == "token_windows":
        return _windows(spec, device, tokenizer, held_out=True)
    if spec.get("kind") == "digits":
        return data_from_spec({**spec, "split": "test"}, device)
    return data_from_spec(spec, device)


def _windows(
    spec: Mapping[str, Any], device: str | torch.device, tokenizer: Any, held_out: bool = False
) -> DataSource:
    if tokenizer is None:
        raise CannotLoad("data kind 'token_windows' needs a tokenizer; pass that of the language model")
    return windows_from_spec(spec, tokenizer, device=device, held_out=held_out)
