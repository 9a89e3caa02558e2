"""The ``lm`` task: a language model by name, folder, run or ``latest``, and the text to decompose it on."""

import math
from pathlib import Path
from typing import Any

import torch

from microtome.core.device import say
from microtome.core.errors import MicrotomeError, bad_value
from microtome.core.hub import need
from microtome.core.run_start import MARKER
from microtome.core.runs import RunFolder
from microtome.core.seeds import generator
from microtome.data.token_windows import TextChoice, TokenWindows, held_out_windows
from microtome.decomposition.spd_config import SPDConfig
from microtome.decomposition.spd_tasks import SPDLanguageTask
from microtome.targets.language_model import LanguageModel, load_language_model
from microtome.targets.language_target import LanguageTarget
from microtome.targets.site_check import fit_sites
from microtome.targets.token_losses import sum_token_losses

CHANCE = 2.0  # nats a token above guessing: no model does that badly on text that its own tokenizer cut
SAMPLE = 4
OWN_TEXT = "target"  # the dataset that the model was trained on


def load_language_parts(
    config: SPDConfig,
    name: str,
    *,
    device: torch.device,
    runs_root: Path = Path("runs"),
    relative_to: Path | None = None,
) -> tuple[LanguageTarget, TokenWindows, TokenWindows]:
    """The target, the text to train on and the text held out.

    Raises ``MicrotomeError`` for a tokenizer that does not belong to the model, and for text that is empty or
    shorter than a window.
    """
    task = config.task_config
    assert isinstance(task, SPDLanguageTask)
    if config.n_seeds > 1 or config.instances not in (None, (0,)):
        field = "n_seeds" if config.n_seeds > 1 else "instances"
        raise bad_value(
            field, getattr(config, field), "a language model is decomposed alone", "start a run for each seed"
        )
    lm = load_language_model(_found(name, relative_to), device=str(device), runs_root=runs_root)
    if name == "latest":
        say(f"latest is {lm.model.name_or_path}")
    tokenizer = lm.tokenizer if config.tokenizer_name is None else _tokenizer(config.tokenizer_name, lm)
    task = _own_text(task, lm) if task.dataset == OWN_TEXT else task
    vocab_size = int(lm.model.get_input_embeddings().weight.shape[0])
    choice = TextChoice(
        task.dataset,
        _context_length(task, lm),
        text_field=task.column_name,
        split=task.train_data_split,
        held_out_split=task.eval_data_split,
        streaming=task.streaming,
        buffer_size=task.buffer_size,
        is_tokenized=task.is_tokenized,
    )
    data = TokenWindows(choice, tokenizer, vocab_size=vocab_size, device=device)
    held_out = held_out_windows(choice, tokenizer, vocab_size=vocab_size, device=device)
    _check_understood(lm, data, vocab_size)
    target = LanguageTarget(
        lm.model,
        tokenizer,
        config.site_patterns,
        config.identity_patterns,
        checkpointing=config.activation_checkpointing,
        copy=False,
    )
    few = torch.arange(2 * min(16, choice.context_length), device=device).reshape(1, 2, -1)
    fit_sites(target, few % vocab_size)
    return target, data, held_out


def _found(name: str, relative_to: Path | None) -> str:
    """A folder is also looked for beside the configuration that names it."""
    if name.startswith("wandb:"):
        raise bad_value(
            "pretrained_model_name_hf", name, "language models are not fetched from W&B", "give a folder"
        )
    if relative_to is not None and not Path(name).expanduser().exists() and (relative_to / name).is_dir():
        return str(relative_to / name)
    return name


def _own_text(task: SPDLanguageTask, lm: LanguageModel) -> SPDLanguageTask:
    """The text of the training run that the model is from. Raises ``MicrotomeError`` where there is none."""
    folder = Path(str(lm.model.name_or_path)).resolve().parent
    if not (folder / MARKER).is_file():
        raise bad_value(
            "task_config.dataset",
            OWN_TEXT,
            f"{lm.name} is no run of `train language-model`, whose text would be known",
            "name the text",
        )
    trained = RunFolder(folder).config
    found = {"dataset": trained.get("dataset", "builtin"), "column_name": trained.get("text_field")}
    return task.model_copy(update=found)


def _context_length(task: SPDLanguageTask, lm: LanguageModel) -> int:
    if task.context_length <= lm.context_length:
        return task.context_length
    if "context_length" in task.model_fields_set:
        raise bad_value(
            "task_config.context_length",
            task.context_length,
            f"{lm.name} reads {lm.context_length} tokens",
            "lower it",
        )
    return lm.context_length


def _tokenizer(name: str, lm: LanguageModel) -> Any:
    """The tokenizer by its own name; it must cut text as the model's does. Raises ``MicrotomeError``."""
    transformers = need("transformers", "a tokenizer")
    try:
        found = transformers.AutoTokenizer.from_pretrained(name, local_files_only=Path(name).is_dir())
    except Exception as error:
        text = " ".join(str(error).split()).split(". ")[0][:160]
        raise bad_value(
            "tokenizer_name", name, f"cannot be loaded ({text})", "leave it out for the model's own"
        ) from None
    sample = "The quick brown fox jumps over 13 lazy dogs.\n\nDoes it? \u201cIt does.\u201d"
    if found(sample)["input_ids"] != lm.tokenizer(sample)["input_ids"]:
        raise bad_value(
            "tokenizer_name",
            name,
            f"cuts text into other tokens than that of {lm.name}",
            "leave it out for the model's own",
        )
    return found


@torch.no_grad()
def _check_understood(lm: LanguageModel, data: TokenWindows, vocab_size: int) -> None:
    """Raise ``MicrotomeError`` for ids that mean nothing to the model, which a wrong tokenizer gives."""
    if data.row is None or data.choice.context_length < 2:  # a stream is not to be read from twice
        return
    ids = data.batch(SAMPLE, generator(0, data.device, "tokenizer check"))[0].to(lm.device)
    loss, n_tokens = sum_token_losses(lm.model, ids, torch.ones_like(ids))
    mean, chance = float(loss) / max(n_tokens, 1), math.log(vocab_size)
    if mean > chance + CHANCE:
        raise MicrotomeError(
            f"dataset={data.choice.dataset!r}: {lm.name} predicts its tokens worse than by guessing"
            f" ({mean:.1f} nats a token, {chance:.1f} by guessing); give the tokenizer and the kind of text"
            " that it was trained on"
        )
