"""Pretrained models and tokenizers through transformers, with every failure told in one line."""

import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from microtome.core.device import say
from microtome.core.errors import CannotLoad, MicrotomeError, bad_value
from microtome.core.hub import hub_answers, need, without_bars
from microtome.core.run_start import MARKER
from microtome.core.runs import RunFolder, find_latest

RUN_KIND = "train-language-model"
MODEL_FOLDER = "model"
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def find_model(name: str, runs_root: Path = Path("runs")) -> str:
    """What to hand to transformers: a local folder, or a name on the Hugging Face hub.

    ``name`` may be ``latest``, a run folder (or its name among the runs), a folder with a ``config.json``, a
    hub name, or ``hf:`` and a hub name. Raises ``CannotLoad``.
    """
    name = str(name).strip()
    if name == "latest":
        return str(_in_run(RunFolder.open(find_latest(runs_root, RUN_KIND))))
    if name.startswith("hf:"):
        return name.removeprefix("hf:")
    try:
        path = next((p for p in (Path(name).expanduser(), runs_root / name) if name and p.is_dir()), None)
    except (OSError, ValueError, RuntimeError):
        path = None
    if path is not None:
        return str(_in_folder(path))
    if Path(name).is_file():
        raise CannotLoad(f"{name}: a file; give the folder that holds its config.json")
    if not _HUB_NAME.fullmatch(name) or name.startswith("."):
        raise CannotLoad(
            f"{name or 'model_name'}: no such folder, and not a Hugging Face name; give owner/name, a folder"
            " with a config.json, a `train language-model` run, or latest"
        )
    return name


def _in_folder(path: Path) -> Path:
    if (path / MARKER).is_file():
        return _in_run(RunFolder.open(path))
    if (path / "config.json").is_file():
        return path
    raise CannotLoad(f"{path}: no config.json in it; give the folder that model.save_pretrained wrote")


def _in_run(run: RunFolder) -> Path:
    if run.kind != RUN_KIND:
        raise CannotLoad(f"{run.path}: a {run.kind} run, not a {RUN_KIND} run; give one of those")
    if not (run.path / MODEL_FOLDER / "config.json").is_file():
        raise CannotLoad(
            f"{run.path}: no model in it yet, the training has not come to its end; carry it on with"
            f" `microtome train language-model --resume {run.path}`"
        )
    return run.path / MODEL_FOLDER


def load_pretrained(where: str, dtype: torch.dtype, device_map: str | None = None) -> tuple[Any, Any]:
    """The causal language model and the tokenizer of a folder or a hub name, on the CPU or by ``device_map``.

    The tokenizer has a pad token afterwards. Raises ``MicrotomeError`` in one line.
    """
    transformers = need("transformers", "a language model")
    is_here = Path(where).is_dir()
    local = {"local_files_only": is_here or not hub_answers()}
    settings: dict[str, Any] = {_dtype_argument(transformers.__version__): dtype, **local}
    if device_map is not None:
        need("accelerate", "device_map")
        settings["device_map"] = device_map
    try:
        with without_bars() if is_here else nullcontext():
            tokenizer = transformers.AutoTokenizer.from_pretrained(where, **local)
            model, told = transformers.AutoModelForCausalLM.from_pretrained(
                where, **settings, output_loading_info=True
            )
    except MicrotomeError:
        raise
    except Exception as error:
        raise _in_one_line(where, error, device_map) from error
    missing = sorted(told.get("missing_keys", ()))
    if missing:
        say(f"{where}: {len(missing)} weights are not in the checkpoint and random, such as {missing[0]}")
    give_pad_token(tokenizer, model)
    return model, tokenizer


def _dtype_argument(version: str) -> str:
    """The name of from_pretrained's argument: torch_dtype was renamed in transformers 4.56."""
    major, minor = (int(part) for part in version.split(".")[:2])
    return "dtype" if (major, minor) >= (4, 56) else "torch_dtype"


def _in_one_line(where: str, error: Exception, device_map: str | None) -> MicrotomeError:
    text = " ".join(str(error).split())
    local = Path(where).is_dir()
    if not local and not hub_answers():
        return CannotLoad(
            f"{where}: neither a local folder nor in the Hugging Face cache, and the hub cannot be reached;"
            " check the name and the network, or give a local folder"
        )
    if not local and re.search(
        r"not a valid model identifier|not a local folder|404|RepositoryNotFound", text
    ):
        return CannotLoad(
            f"{where}: no such model on the Hugging Face hub (or a private one); check the name, log in with"
            " `hf auth login`, or give a local folder"
        )
    if device_map is not None and "device_map" in text:
        return bad_value("device_map", device_map, text[:200], "use auto, or leave it out")
    return CannotLoad(f"{where}: cannot be loaded as a causal language model ({text[:300]})")


def give_pad_token(tokenizer: Any, model: Any) -> None:
    """See to a pad token whose id the embedding holds: the end token, else an ordinary one.

    Padding is masked everywhere, so that any id does; the vocabulary is never resized.
    """
    rows = int(model.get_input_embeddings().weight.shape[0])

    def fits(token_id: Any) -> bool:
        return isinstance(token_id, int) and 0 <= token_id < rows

    if fits(tokenizer.pad_token_id):
        return
    if fits(tokenizer.eos_token_id):
        tokenizer.pad_token = tokenizer.eos_token
    else:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
    if not fits(tokenizer.pad_token_id):
        say(f"{getattr(tokenizer, 'name_or_path', 'tokenizer')}: has no token to pad with")
