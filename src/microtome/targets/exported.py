"""Networks in ``torch.export`` files, which need no Python class."""

import copy
import io
import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export.unflatten import UnflattenedModule

from microtome.core.errors import CannotLoad
from microtome.targets.exported_layers import put_plain_layers


def load_exported(path: Path) -> tuple[nn.Module, tuple[int | None, ...]]:
    """The network in a file of ``torch.export.save`` and its input's shape, None where it is free.

    Modules have their own names again, so that hooks work. Refused are files in which something is pickled,
    which could run code, and networks exported for one batch size. Raises ``CannotLoad`` in one line.
    """
    _refuse_pickles(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(path)
            module = torch.export.unflatten(program)
    except Exception as error:  # whatever torch's reader meets in a file of another version
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise CannotLoad(
            f"{path}: cannot be read as a torch.export file by torch {torch.__version__} ({line});"
            " export it again"
        ) from None
    inputs = [
        node.meta["val"]
        for node in program.graph.nodes
        if node.op == "placeholder" and node.name in program.graph_signature.user_inputs
    ]
    if len(inputs) != 1 or not isinstance(inputs[0], torch.Tensor):
        raise CannotLoad(
            f"{path}: takes {len(inputs)} inputs; export a network that takes one batch of images"
        )
    shape = tuple(n if isinstance(n, int) else None for n in inputs[0].shape)
    if not shape or shape[0] is not None:
        raise CannotLoad(
            f"{path}: exported for batches of exactly {shape[0] if shape else 0}; export it with"
            " dynamic_shapes=({0: torch.export.Dim('batch')},)"
        )
    put_plain_layers(module)
    _make_copyable(module)
    return module, shape


class _ExportedNetwork(UnflattenedModule):
    """torch's unflattened module, which can also be copied."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "_ExportedNetwork":
        made = self.__class__.__new__(self.__class__)
        memo[id(self)] = made
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # about a class that torch itself keeps in here
            made.__dict__ = copy.deepcopy(self.__dict__, memo)
        return made


def _make_copyable(module: UnflattenedModule) -> None:
    """Forget the symbolic tensors of the export, which cannot be copied and which running does not need."""
    module.check_input_constraints = False
    for part in module.modules():
        graph = getattr(part, "graph", None)
        for node in graph.nodes if isinstance(graph, torch.fx.Graph) else ():
            node.meta.clear()
    for name, value in vars(module).items():
        if isinstance(value, list) and value and all(isinstance(item, torch.fx.Node) for item in value):
            setattr(module, name, [])
    module.__class__ = _ExportedNetwork


def _refuse_pickles(path: Path) -> None:
    """torch's reader falls back on unpickling anything; what only it could read is refused before that."""
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                part = _part_with_code(archive, name)
                if part is not None:
                    raise CannotLoad(
                        f"{path}: {part} carries code or a pickle that could run code, refused unread;"
                        " export with tensors alone as weights and constants"
                    )
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        if isinstance(error, CannotLoad):
            raise
        raise CannotLoad(f"{path}: truncated or not a torch.export file; export it again") from None


def _part_with_code(archive: zipfile.ZipFile, name: str) -> str | None:
    last = name.rsplit("/", 1)[-1]
    if "/aotinductor/" in name or last.startswith(("custom_obj_", "opaque_obj_")):
        return name
    if last.endswith("_config.json"):
        config = json.loads(archive.read(name))
        entries = config.get("config") if isinstance(config, dict) else None
        entries = entries if isinstance(entries, dict) else {}
        return next((key for key, entry in entries.items() if entry.get("use_pickle")), None)
    if last.endswith(".pt") or (last.startswith("serialized_") and "exported_program" not in last):
        content = archive.read(name)
        try:
            if content:
                torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except Exception:
            return name
    return None
