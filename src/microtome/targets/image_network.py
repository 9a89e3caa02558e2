"""An image network ready to be looked into, wherever it came from."""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from torch import nn

from microtome.core.errors import CannotLoad, MicrotomeError
from microtome.core.references import parse_reference
from microtome.core.run_start import MARKER
from microtome.core.runs import RunFolder
from microtome.core.tensor_files import read_safetensors
from microtome.data.labelled_images import LabelledImages
from microtome.targets.checkpoints import (
    is_export,
    is_torchscript,
    load_weights,
    read_weights,
    refuse_not_finite,
)
from microtome.targets.exported import load_exported
from microtome.targets.lazy_layers import make_definite
from microtome.targets.module_sources import (
    FORMS,
    build_seeded,
    can_be_built,
    infer_architecture,
    parse_architecture,
    seeded,
)
from microtome.targets.python_modules import is_call
from microtome.targets.reinitialise import reinitialised
from microtome.targets.vision_models import load_vision_model

RUN_KIND = "train-few-shot"
# In a run of few-shot training: the trained weights, the ones it started from, and what they belong to.
WEIGHTS, INITIAL, DESCRIPTION = "model.safetensors", "initial.safetensors", "network.json"


@dataclass(frozen=True)
class ImageNetwork:
    """A network in evaluation mode, frozen, with what is known of its input.

    ``channels`` and ``size`` are the input's, when the network fixes them; inputs are ``(x / 255 - mean) /
    std`` of eight-bit images. ``architecture`` rebuilds it untrained; ``digest`` is that of its weights.
    """

    module: nn.Module
    name: str
    channels: int | None = None
    size: int | None = None
    mean: float = 0.5
    std: float = 0.5
    architecture: dict[str, Any] = field(default_factory=dict)
    source: Path | None = None
    digest: str = ""


def open_network(
    reference: str,
    *,
    architecture: str | None = None,
    images: LabelledImages | None = None,
    device: str | torch.device = "cpu",
) -> ImageNetwork:
    """The network that ``reference`` means, in evaluation mode and frozen.

    A ``.pt``, ``.pth`` or ``.safetensors`` checkpoint (its class inferred from names and shapes, or given as
    ``architecture="package.module:Class(width=64)"``), ``package.module:Class(width=64)@checkpoint.pt`` or
    without a checkpoint, a ``torch.export`` file (``.pt2``), ``hf:name`` or a Hugging Face folder, a run
    folder of ``train few-shot``, or ``latest``. With ``images``, it is tried on two of them. Raises
    ``MicrotomeError`` in one line.
    """
    text = str(reference).strip()
    network = _open(text, architecture)
    refuse_not_finite(network.module.state_dict(), text)
    network.module.to(device).eval().requires_grad_(False)
    if images is not None:
        check_takes(network, images)
    return replace(network, digest=weights_digest(network.module))


def module_network(module: nn.Module, name: str) -> ImageNetwork:
    """A copy of a module of the user's, in evaluation mode and frozen; its inputs are taken as they are."""
    copied = copy.deepcopy(module).eval().requires_grad_(False)
    refuse_not_finite(copied.state_dict(), name)
    return ImageNetwork(copied, name, mean=0.0, std=1.0, digest=weights_digest(copied))


def untrained(network: ImageNetwork, seed: int) -> ImageNetwork:
    """The same architecture, initialised afresh from ``seed``; every global random state stays as it is.

    A network that no code can make again (``torch.export``) is copied and given fresh weights part by part;
    its name says so.
    """
    name = f"untrained {network.name} (seed {seed})"
    if can_be_built(network.architecture):
        module = build_seeded(network.architecture, seed)
        with seeded(seed):
            make_definite(module, network.module.state_dict())
    else:
        module, as_made = reinitialised(network.module, seed)
        if not as_made:
            name = f"{network.name} with weights redrawn at the same scale (seed {seed})"
    like = next(network.module.parameters(), None)
    module.to(like.device if like is not None else "cpu").eval().requires_grad_(False)
    return replace(network, module=module, name=name, source=None, digest=weights_digest(module))


def initial_of(network: ImageNetwork) -> ImageNetwork | None:
    """The network's own initialisation, where the run folder that it comes from holds one."""
    path = network.source.parent / INITIAL if network.source is not None else None
    if path is None or network.source == path or not path.is_file():
        return None
    module = build_seeded(network.architecture, 0)
    load_weights(module, read_weights(path), path)
    like = next(network.module.parameters(), None)
    module.to(like.device if like is not None else "cpu").eval().requires_grad_(False)
    name = f"initialisation of {network.name}"
    return replace(network, module=module, name=name, source=path, digest=weights_digest(module))


def check_takes(network: ImageNetwork, images: LabelledImages) -> None:
    """Try the network on two images. Raises ``MicrotomeError`` saying what it takes and what these are."""
    channels, height, width = images.pixels.shape[1:]
    these = f"{images.source}: images of {channels}x{height}x{width}"
    if network.channels not in (None, channels):
        raise MicrotomeError(
            f"{these}, but {network.name} takes {network.channels} channels; ask for them with"
            f" --channels {network.channels}"
        )
    like = next(network.module.parameters(), torch.zeros(0))
    x = images.inputs(slice(0, 2), mean=network.mean, std=network.std).to(like.device, like.dtype)
    try:
        with torch.no_grad():
            out = network.module(x)
    except Exception as error:
        size = network.size or "the size it was trained on"
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise MicrotomeError(
            f"{these} do not fit {network.name} ({line}); resize them with --image-size {size}"
        ) from None
    if not isinstance(out, torch.Tensor) or len(out) != len(x):
        raise MicrotomeError(
            f"{network.name}: gives a {type(out).__name__}, not one row of numbers an image; wrap it in a"
            " class whose forward gives logits"
        )


def weights_digest(module: nn.Module) -> str:
    """A digest of names, shapes and values of all weights and buffers."""
    digest = blake2b(digest_size=16)
    for name, value in module.state_dict().items():
        plain = value.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)};".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


# -- the places a network can come from ----------------------------------------------------------------------


def _open(text: str, architecture: str | None) -> ImageNetwork:
    call, path_text = _split_call(text)
    if call is not None:
        if path_text is not None:
            return _from_checkpoint(_existing(path_text), parse_architecture(call))
        return _constructed(parse_architecture(call), call)
    given = None if architecture is None else parse_architecture(architecture)
    if text.startswith("hf:"):
        return _from_hugging_face(text.removeprefix("hf:"), text)
    path = Path(text).expanduser()
    if path.is_dir() and not (path / MARKER).is_file() and (path / "config.json").is_file():
        return _from_hugging_face(str(path), path.name)
    if path.is_file() and (path.suffix == ".pt2" or is_export(path)):
        return _from_export(path)
    found = parse_reference(text, want=RUN_KIND)
    if found.kind == "run" and found.path is not None:
        return _from_run(RunFolder.open(found.path))
    if found.kind == "checkpoint" and found.path is not None:
        return _from_checkpoint(found.path, given)
    raise CannotLoad(
        f"{text}: not an image network; give a checkpoint, a `train few-shot` run, latest, hf:name,"
        f" a .pt2 file, or {FORMS}"
    )


def _split_call(text: str) -> tuple[str | None, str | None]:
    """``Class(...)`` and the checkpoint behind ``@``; None and None when ``text`` is something else."""
    if Path(text).exists() or text.startswith(("hf:", "wandb:")):
        return None, None
    for i in (i for i, letter in enumerate(text) if letter == "@"):
        if is_call(text[:i]) or _is_own(text[:i]):
            return text[:i], text[i + 1 :]
    return (text, None) if is_call(text) or _is_own(text) else (None, None)


def _is_own(text: str) -> bool:
    """Whether one of our own networks is named."""
    try:
        return parse_architecture(text)["kind"] != "python"
    except MicrotomeError:
        return False


def _existing(text: str) -> Path:
    path = Path(text).expanduser()
    if path.is_file():
        return path
    found = parse_reference(text, want=RUN_KIND)
    if found.path is None:
        raise CannotLoad(f"{text}: not a checkpoint file; give a .pt, .pth or .safetensors file after @")
    return found.path / WEIGHTS if found.kind == "run" else found.path


def _constructed(architecture: dict[str, Any], name: str) -> ImageNetwork:
    return _network(build_seeded(architecture, 0), name, architecture, None)


def _from_checkpoint(path: Path, architecture: dict[str, Any] | None) -> ImageNetwork:
    description = path.parent / DESCRIPTION
    if architecture is None and path.name in (WEIGHTS, INITIAL) and description.is_file():
        return _from_description(path, path.parent)
    state = read_weights(path)
    if architecture is None:
        architecture = _inferred(state, path)
    module = build_seeded(architecture, 0)
    load_weights(module, state, path)
    return _network(module, f"{path.parent.name}/{path.name}".lstrip("/"), architecture, path)


def _inferred(state: Mapping[str, torch.Tensor], path: Path) -> dict[str, Any]:
    try:
        return infer_architecture(state, path)
    except CannotLoad as error:
        if not is_torchscript(path):
            raise
        raise CannotLoad(
            f"{error}; or, a TorchScript file giving weights alone, export the network with"
            " torch.export.save(torch.export.export(model, (x,)), 'model.pt2')"
        ) from None


def _from_run(run: RunFolder) -> ImageNetwork:
    if run.kind != RUN_KIND:
        raise CannotLoad(f"{run.path}: a {run.kind} run, not a {RUN_KIND} run; give one of those")
    if not (run.path / WEIGHTS).is_file():
        raise CannotLoad(f"{run.path}: no {WEIGHTS} in it, the training has not come to its end; wait for it")
    return _from_description(run.path / WEIGHTS, run.path)


def _from_description(weights: Path, folder: Path) -> ImageNetwork:
    path = folder / DESCRIPTION
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        architecture = dict(said["architecture"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CannotLoad(f"{path}: missing or not the description of a network ({error})") from None
    module = build_seeded(architecture, 0)
    load_weights(module, read_safetensors(weights)[0], weights)
    network = _network(module, folder.name, architecture, weights)
    kinds = {"channels": int, "size": int, "mean": float, "std": float}
    known = {key: kind(said[key]) for key, kind in kinds.items() if said.get(key) is not None}
    return replace(network, **known)


def _from_hugging_face(where: str, name: str) -> ImageNetwork:
    module, architecture = load_vision_model(where)
    local = Path(where) if Path(where).is_dir() else None
    # It normalises images in [0, 1] itself, each channel by its own numbers.
    return ImageNetwork(
        module, name, architecture["channels"], architecture["size"], 0.0, 1.0, architecture, local
    )


def _from_export(path: Path) -> ImageNetwork:
    module, shape = load_exported(path)
    channels, size = (shape[1], shape[2]) if len(shape) == 4 else (None, None)
    return ImageNetwork(
        module, path.name, channels, size, architecture={"kind": "export", "path": str(path)}, source=path
    )


def _network(module: nn.Module, name: str, architecture: dict[str, Any], path: Path | None) -> ImageNetwork:
    convolution = next((part for part in module.modules() if isinstance(part, nn.Conv2d)), None)
    channels = architecture.get("in_channels", convolution.in_channels if convolution is not None else None)
    defaults = {"same-different": 128, "few-shot-convnet": 28}
    size = architecture.get("image_size", defaults.get(architecture["kind"]))
    return ImageNetwork(module, name, channels, size, architecture=architecture, source=path)
