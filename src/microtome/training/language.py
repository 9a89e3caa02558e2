"""Training runs of small language models: the folders that ``microtome train language-model`` writes."""

import contextlib
import math
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from microtome.core.device import idle_threads, resolve_device, set_threads
from microtome.core.errors import CannotLoad, MicrotomeError
from microtome.core.hub import need, without_bars
from microtome.core.run_lock import only_writer
from microtome.core.runs import RunFolder, timestamp
from microtome.core.seeds import stream_seed
from microtome.core.tracking import open_tracker
from microtome.targets.pretrained import MODEL_FOLDER, RUN_KIND
from microtome.targets.token_losses import sum_token_losses
from microtome.training import plots
from microtome.training.language_config import LanguageModelTrainConfig
from microtome.training.language_data import TextSplit, TokenData, read_split, tokens_of, unigram_loss
from microtome.training.language_loop import LanguageLoop
from microtome.training.language_tokenizer import (
    check_reloaded,
    save_tokenizer,
    tokenizer_from_json,
    train_tokenizer,
)


def train_language_model(
    config: LanguageModelTrainConfig,
    *,
    runs_root: str | Path = Path("runs"),
    out_dir: str | Path | None = None,
    command: Sequence[str] = (),
    show_progress: bool = True,
) -> RunFolder:
    """Train a tokenizer and a causal language model on text, and write the run.

    ``model/`` is a Hugging Face folder that ``AutoModelForCausalLM`` and ``AutoTokenizer`` read.
    ``summary.json``: held-out loss in nats a token and in bits a byte, the loss of token frequencies alone,
    tokens a second, sizes. Raises ``Diverged``, and ``KeyboardInterrupt`` when stopped, everything saved.
    """
    need("transformers", "train language-model")
    set_threads(config.threads or idle_threads())
    device = resolve_device(config.device)
    split = read_split(config)
    tokenizer = train_tokenizer(split.train, config.vocab_size)
    data = tokens_of(split, tokenizer, config.context_length)
    model = build_model(config, tokenizer.get_vocab_size()).to(device)
    name = f"language-model_{config.architecture}_{config.n_layers}x{config.d_model}_seed{config.seed}"
    path = Path(out_dir) if out_dir is not None else Path(runs_root) / f"{name}_{timestamp()}"
    existed = path.exists()
    run = RunFolder.create(
        path, config, command=command or sys.argv, seed=config.seed, device=str(device), kind=RUN_KIND
    )
    try:
        with only_writer(run.path):
            return _train(run, config, split, data, tokenizer, model, show_progress)
    except BaseException:
        if not run.checkpoint_steps():  # nothing to carry on from: leave nothing behind
            shutil.rmtree(path, ignore_errors=True)
            if existed:  # an empty folder that the user had made
                path.mkdir(parents=True, exist_ok=True)
        raise


def resume_language_model(path: str | Path, *, show_progress: bool = True) -> RunFolder:
    """Carry a stopped training on from its last checkpoint, bit for bit on a CPU.

    Raises ``CannotLoad`` when there is nothing to carry on or the text has changed.
    """
    run = RunFolder.open(path)
    if run.kind != RUN_KIND:
        raise CannotLoad(f"{run.path}: a {run.kind} run; only {RUN_KIND} runs are carried on here")
    if run.finished:
        return run
    with only_writer(run.path):
        checkpoint = run.latest_checkpoint()
        if checkpoint is None:
            raise CannotLoad(f"{run.path}: holds no checkpoint to carry on from; start the run again")
        step, tensors, extra = checkpoint
        for left_by_a_kill in run.path.rglob(".*.partial"):
            _remove(left_by_a_kill)
        config = LanguageModelTrainConfig.from_mapping(run.config, str(run.path / "config.yaml"))
        # The same number as before: sums of floating-point numbers may depend on it.
        set_threads(config.threads or run.environment.get("threads") or idle_threads())
        tokenizer = tokenizer_from_json(extra["tokenizer"])
        split = read_split(config)
        data = tokens_of(split, tokenizer, config.context_length)
        if data.fingerprint() != extra["tokens"]:
            raise CannotLoad(
                f"{run.path}: dataset={config.dataset!r} has changed since the run began; start a new run"
            )
        model = build_model(config, tokenizer.get_vocab_size()).to(resolve_device(config.device))
        return _train(run, config, split, data, tokenizer, model, show_progress, (step, tensors))


def build_model(config: LanguageModelTrainConfig, vocab_size: int) -> Any:
    """The Hugging Face model with its start values, which depend on the seed only; in evaluation mode.

    (Neither shape has dropout, so that evaluation and training are the same.)
    """
    transformers = need("transformers", "train language-model")
    classes = {
        "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
    }
    config_class, model_class = classes[config.architecture]
    shape = config_class(
        vocab_size=vocab_size,
        hidden_size=config.d_model,
        intermediate_size=config.d_mlp,
        num_hidden_layers=config.n_layers,
        num_attention_heads=config.n_heads,
        num_key_value_heads=config.key_value_heads,
        max_position_embeddings=config.context_length,
        tie_word_embeddings=config.tie_embeddings,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(config.seed, "model"))
        return model_class(shape).eval()


def _train(
    run: RunFolder,
    config: LanguageModelTrainConfig,
    split: TextSplit,
    data: TokenData,
    tokenizer: Any,
    model: Any,
    show_progress: bool,
    restore: tuple[int, dict[str, torch.Tensor]] | None = None,
) -> RunFolder:
    sink = config.tracker or ("wandb" if config.wandb_project else "none")
    tracker = open_tracker(sink, run, config.wandb_project, run.path.name, config.as_dict())
    extra = {"tokenizer": tokenizer.to_str(), "tokens": data.fingerprint()}
    loop = LanguageLoop(model, data, config, run, extra, tracker)
    if restore is not None:
        loop.restore(*restore)
    try:
        loop.train(show_progress)
        _save_model(run, loop, split, tokenizer)
        summary = _summary(run, loop)
        picture = run.save_figure("loss", plots.language_model_losses(run.metrics(), summary["unigram_loss"]))
        tracker.image(config.steps, "loss", picture)
    except KeyboardInterrupt as stop:
        told = str(stop) or f"Stopped; carry on with `microtome train language-model --resume {run.path}`"
        raise KeyboardInterrupt(told) from None
    finally:
        tracker.finish()
    run.finish(summary)
    return run


def _summary(run: RunFolder, loop: LanguageLoop) -> dict[str, Any]:
    config, data = loop.config, loop.data
    rows = run.metrics()
    held_out = loop.held_out_loss()
    # The median line: a machine that was busy or asleep for a while does not count.
    speeds = sorted(row["tokens_per_second"] for row in rows)
    return {
        "held_out_loss": held_out,
        "held_out_perplexity": math.exp(held_out),
        "held_out_bits_per_byte": held_out * len(data.held_out) / math.log(2) / data.held_out_bytes,
        "train_loss": rows[-1]["loss"],
        "unigram_loss": unigram_loss(data, loop.model.config.vocab_size),
        "tokens_per_second": speeds[len(speeds) // 2],
        "parameters": sum(parameter.numel() for parameter in loop.parameters.values()),
        "vocab_size": loop.model.config.vocab_size,
        "train_tokens": len(data.train),
        "held_out_tokens": len(data.held_out),
        "steps": config.steps,
    }


def _save_model(run: RunFolder, loop: LanguageLoop, split: TextSplit, tokenizer: Any) -> None:
    """Write ``model/``, and read it back: the same tokens, the same loss."""
    with _folder_at_once(run.path / MODEL_FOLDER) as folder, without_bars():
        loop.model.config.use_cache = True
        loop.model.save_pretrained(folder, safe_serialization=True)
        save_tokenizer(tokenizer, folder, loop.config.context_length)
        check_reloaded(tokenizer, folder, split.held_out)
        transformers = need("transformers", "train language-model")
        reloaded = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
        ids = loop.data.held_out[None, : loop.config.context_length].to(loop.device)
        with torch.no_grad():
            ours, theirs = (
                float(sum_token_losses(model, ids, torch.ones_like(ids))[0])
                for model in (loop.model, reloaded.to(loop.device).eval())
            )
        if abs(ours - theirs) > 1e-4 * ours:
            raise MicrotomeError(
                f"{folder}: transformers {transformers.__version__} reads the model back with another loss"
                f" ({theirs / ids.numel():.3f} for {ours / ids.numel():.3f}); use another version"
            )


@contextlib.contextmanager
def _folder_at_once(final: Path) -> Iterator[Path]:
    """A folder to fill, which gets its name when everything is in it."""
    temporary = final.with_name(f".{final.name}.partial")
    _remove(temporary)
    _remove(final)
    temporary.mkdir()
    try:
        yield temporary
        temporary.replace(final)
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
