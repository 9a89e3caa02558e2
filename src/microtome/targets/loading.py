"""Targets from disk: run folders of ours, and checkpoints of the original APD and SPD codes."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from microtome.core.config import read_yaml
from microtome.core.errors import CannotLoad
from microtome.core.references import ModelReference, not_yet, parse_reference
from microtome.core.tensor_files import load_state_dict
from microtome.core.wandb_files import fetch_wandb
from microtome.data.loading import DataSpec
from microtome.targets.batched import BatchedTarget
from microtome.targets.config import MLPModelConfig, ResidMLPModelConfig, TMSModelConfig
from microtome.targets.induction import InductionTransformer
from microtome.targets.induction_config import InductionModelConfig
from microtome.targets.layouts import induction_state, resid_mlp_state, target_part, tms_state
from microtome.targets.mlp import MLP
from microtome.targets.module_spec import build_module
from microtome.targets.module_target import ModuleTarget
from microtome.targets.network import Target
from microtome.targets.resid_mlp import ResidMLP
from microtome.targets.tms import TMS

# Weight file -> the training configuration beside it.
TRAIN_CONFIGS = {
    "tms": "tms_train_config.yaml",
    "resid_mlp": "resid_mlp_train_config.yaml",
    "digits": "digits_train_config.yaml",
    "ih": "ih_train_config.yaml",
}
_TRAIN_COMMANDS = {"tms": "tms", "resid_mlp": "resid-mlp", "digits": "digits", "ih": "induction"}


@dataclass(frozen=True)
class LoadedTarget:
    """A frozen target, the description of the data it was trained on, and where both came from."""

    target: Target
    data: DataSpec | None
    train_config: dict[str, Any]
    source: Path
    label_coeffs: Float[Tensor, "*K n_features"] | None = None


def load_target(
    reference: str | Path | ModelReference,
    *,
    runs_root: Path = Path("runs"),
    relative_to: Path | None = None,
    device: str | torch.device = "cpu",
    want: str = "train",
) -> LoadedTarget:
    """Load a trained target: ``latest``, a run folder, or a weight file with its training YAML beside it.

    ``want`` is the kind of run that ``latest`` means: any training, ``train-tms``, ``train-resid-mlp``,
    ``train-digits`` or ``train-induction``.
    Raises CannotLoad in one line when there is nothing there, or what is there is not a target.
    """
    weights, kind = _find_weights(_locate(reference, runs_root, relative_to, want))
    train_config = read_yaml(weights.parent / TRAIN_CONFIGS[kind])
    target, data = target_from_state(kind, load_state_dict(weights), train_config, weights)
    target.to(device).requires_grad_(False).eval()
    coefficients = _label_coefficients(weights.parent / "label_coeffs.json") if kind == "resid_mlp" else None
    return LoadedTarget(target, data, train_config, weights, coefficients)


def target_from_state(
    kind: str, state: Mapping[str, Tensor], train_config: Mapping[str, Any] | None, source: Path
) -> tuple[BatchedTarget, DataSpec]:
    """The target in a file of tensors (its own, or a decomposition's that contains it), and its inputs.

    Without ``train_config`` the architecture is read off the tensors. Raises CannotLoad if they do not tell.
    """
    if train_config is None:
        train_config = _shown_by_tensors(kind, target_part(state), source)
    return _LOADERS[kind](target_part(state), dict(train_config), source)


def build(spec: Mapping[str, Any], module: nn.Module | None = None) -> Target:
    """A target of the architecture that ``Target.spec()`` described, weights not yet loaded.

    ``module`` stands in for a user's module that cannot be made from its description alone.
    """
    kind = spec.get("kind")
    values = {key: value for key, value in spec.items() if key != "kind"}
    if kind == "tms":
        return TMS(TMSModelConfig.from_mapping(values, source="target"))
    if kind == "resid_mlp":
        fixed, shared = values.pop("fixed_embedding", False), values.pop("shared_embedding", False)
        return ResidMLP(ResidMLPModelConfig.from_mapping(values, source="target"), fixed, shared)
    if kind == "mlp":
        return MLP(MLPModelConfig.from_mapping(values, source="target"))
    if kind == "induction":
        return InductionTransformer(InductionModelConfig.from_mapping(values, source="target"))
    if kind == "module":
        made = build_module(values["module"]) if module is None else module
        return ModuleTarget(
            made,
            values["patterns"],
            values["n_instances"],
            values.get("output"),
            values.get("sharing"),
            values.get("identities", ()),
        )
    if kind == "language_model":
        return _language_target(values, module)
    raise CannotLoad(f"target kind {kind!r} is unknown; it was written by another version")


def _language_target(values: Mapping[str, Any], module: nn.Module | None) -> Target:
    from microtome.targets.language_spec import build_model, build_tokenizer
    from microtome.targets.language_target import LanguageTarget

    return LanguageTarget(
        build_model(values["model"]) if module is None else module,
        build_tokenizer(values["tokenizer"]),
        values["patterns"],
        values["identities"],
        n_instances=values["n_instances"],
        checkpointing=values["checkpointing"],
        sharing=values["sharing"],
        copy=module is not None,
    )


def sparse_data_spec(
    train_config: Mapping[str, Any], n_features: int, n_instances: int, value_range: tuple[float, float]
) -> DataSpec:
    """Description of the inputs that a toy model's training configuration stands for."""
    return {
        "kind": "sparse_features",
        "n_instances": n_instances,
        "n_features": n_features,
        "feature_probability": train_config.get("feature_probability", 0.05),
        "data_generation_type": train_config.get("data_generation_type", "at_least_zero_active"),
        "value_range": list(value_range),
        "synced_inputs": train_config.get("synced_inputs"),
    }


def _load_tms(state: dict[str, Tensor], config: dict[str, Any], path: Path) -> tuple[BatchedTarget, DataSpec]:
    ours, tied = tms_state(state, path)
    given = _model_config(config, "tms_model_config", path)
    k = ours["linear1.weight"].shape[0]
    model = TMSModelConfig.from_mapping({**given, "tied_weights": tied, "n_instances": k}, str(path))
    target = TMS(model)
    target.load_weights(ours, path)
    return target, sparse_data_spec(config, model.n_features, k, (0.0, 1.0))


def _shown_by_tensors(kind: str, state: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """A training configuration with nothing but the architecture, where the tensors leave no doubt."""
    if kind != "tms":
        raise CannotLoad(
            f"{path}: its tensors do not tell the activation function;"
            f" put the {TRAIN_CONFIGS[kind]} of its training in {path.parent}"
        )
    ours, _ = tms_state(state, path)
    _, n, h = ours["linear1.weight"].shape
    layers = sum(name.startswith("hidden_layers.") for name in ours)
    return {"tms_model_config": {"n_features": n, "n_hidden": h, "n_hidden_layers": layers}}


def _load_resid(
    state: dict[str, Tensor], config: dict[str, Any], path: Path
) -> tuple[BatchedTarget, DataSpec]:
    ours = resid_mlp_state(state, path)
    key = "resid_mlp_config" if "resid_mlp_config" in config else "resid_mlp_model_config"
    given = _model_config(config, key, path)
    k = max(value.shape[0] for value in ours.values())
    model = ResidMLPModelConfig.from_mapping({**given, "n_instances": k}, str(path))
    fixed = bool(config.get("fixed_random_embedding") or config.get("fixed_identity_embedding"))
    target = ResidMLP(model, fixed_embedding=fixed, shared_embedding=ours["W_E"].shape[0] == 1)
    target.load_weights(ours, path)
    return target, sparse_data_spec(config, model.n_features, k, (-1.0, 1.0))


def _load_digits(
    state: dict[str, Tensor], config: dict[str, Any], path: Path
) -> tuple[BatchedTarget, DataSpec]:
    hidden = config.get("hidden_sizes", ())
    if not isinstance(hidden, (list, tuple)):
        raise CannotLoad(f"{path.parent}: hidden_sizes={hidden!r}: not a list; use the file it came with")
    sizes = (64, *hidden, 10)
    k = next(iter(state.values())).shape[0] if state else 1
    target = MLP(MLPModelConfig.from_mapping({"sizes": sizes, "n_instances": k}, str(path)))
    target.load_weights(state, path)
    return target, {"kind": "digits", "split": "train"}


def _load_induction(
    state: dict[str, Tensor], config: dict[str, Any], path: Path
) -> tuple[BatchedTarget, DataSpec]:
    ours = induction_state(state, path)
    k = ours["token_embed.weight"].shape[0]
    given = _model_config(config, "ih_model_config", path)
    # The original code's file has no such settings, but a warm-up that ours has under another name.
    original = {"pos_encoding": "added"} if "lr_warmup" in config else {}
    model = InductionModelConfig.from_mapping({**original, **given, "n_instances": k}, str(path))
    target = InductionTransformer(model)
    target.load_weights(ours, path)
    return target, {
        "kind": "induction",
        "vocab_size": model.vocab_size,
        "seq_len": model.seq_len,
        "pattern": config.get("pattern", "pair" if original else "repeat"),
        "period": list(config.get("period", (6, 24))),
        "prefix_window": config.get("prefix_window"),
    }


_Loader = Callable[[dict[str, Tensor], dict[str, Any], Path], tuple[BatchedTarget, DataSpec]]
_LOADERS: dict[str, _Loader] = {
    "tms": _load_tms,
    "resid_mlp": _load_resid,
    "digits": _load_digits,
    "ih": _load_induction,
}


def _locate(
    reference: str | Path | ModelReference, runs_root: Path, relative_to: Path | None, want: str
) -> Path:
    """The folder or file that the reference means, downloaded when it is a W&B run."""
    if not isinstance(reference, ModelReference):
        text = str(reference)
        if "placeholder" in text and not Path(text).exists():
            raise CannotLoad(
                f"pretrained_model_path={text!r} is a placeholder; "
                "run `microtome train tms` and give its tms.pth here, or use `latest`"
            )
        try:
            reference = parse_reference(text, runs_root=runs_root, relative_to=relative_to, want=want)
        except CannotLoad as error:
            mend = (
                "" if text == "latest" else "; `microtome train tms` makes one, and `latest` means the newest"
            )
            raise CannotLoad(f"{error}{mend}") from None
    if reference.kind == "wandb":
        return fetch_wandb(reference, runs_root / "downloads")
    if reference.path is None:
        raise not_yet(reference)
    return reference.path


def _find_weights(path: Path) -> tuple[Path, str]:
    """The weight file at ``path`` or in that folder, and what kind of network it holds."""
    if path.is_dir():
        for kind in TRAIN_CONFIGS:
            if (path / f"{kind}.pth").is_file():
                return _beside(path / f"{kind}.pth", kind)
        raise CannotLoad(
            f"{path}: holds no trained target ({', '.join(f'{kind}.pth' for kind in TRAIN_CONFIGS)}); "
            "train one with `microtome train tms`"
        )
    if not path.is_file():
        raise CannotLoad(
            f"pretrained_model_path={str(path)!r}: no such file; "
            "run `microtome train tms` and give its folder, or use `latest`"
        )
    present = [kind for kind, name in TRAIN_CONFIGS.items() if (path.parent / name).is_file()]
    kind = path.stem if path.stem in TRAIN_CONFIGS else (present[0] if present else "tms")
    return _beside(path, kind)


def _beside(weights: Path, kind: str) -> tuple[Path, str]:
    if not (weights.parent / TRAIN_CONFIGS[kind]).is_file():
        raise CannotLoad(
            f"{weights}: there is no {TRAIN_CONFIGS[kind]} beside it; "
            f"copy it there, or train again with `microtome train {_TRAIN_COMMANDS[kind]}`"
        )
    return weights, kind


def _model_config(config: Mapping[str, Any], key: str, path: Path) -> dict[str, Any]:
    given = config.get(key)
    if not isinstance(given, Mapping):
        raise CannotLoad(f"{path.parent}: its training configuration has no {key}; use the file it came with")
    return dict(given)


def _label_coefficients(path: Path) -> Tensor | None:
    if not path.is_file():
        return None
    try:
        return torch.tensor(json.loads(path.read_text(encoding="utf-8")), dtype=torch.float32)
    except (ValueError, TypeError):
        raise CannotLoad(f"{path}: not a JSON list of numbers; copy it again from its run") from None
