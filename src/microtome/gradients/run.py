"""A gradient analysis from settings to files."""

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from microtome.core.device import say
from microtome.core.distributed import Processes, processes
from microtome.core.errors import CannotLoad, MicrotomeError
from microtome.core.interrupts import stop_signals
from microtome.core.progress import progress
from microtome.core.run_lock import only_writer
from microtome.core.runs import RunFolder, timestamp
from microtome.data.text import TokenBatch
from microtome.gradients.accumulate import Accumulator
from microtome.gradients.checkpoints import Checkpoints, fingerprint, remove_checkpoints, told_what_to_lower
from microtome.gradients.chunks import batches_of, chunked
from microtome.gradients.config import FeaturesConfig, GradientConfig, LayersConfig
from microtome.gradients.documented import documented_arrays
from microtome.gradients.measured import scores
from microtome.gradients.metadata import RunFacts, flat_metadata
from microtome.gradients.names import Kind, free_folder
from microtome.gradients.result import GradientResult
from microtome.gradients.save import save_folder, save_npz
from microtome.gradients.setup import (
    NORM_TEXTS,
    Prepared,
    check_dictionaries,
    choose_threads,
    load_model,
    norm_limits,
    opener_of,
    prepare,
    resolve_names,
    texts_of,
)
from microtome.gradients.timing import Timing
from microtome.gradients.tokens import listed_tokens
from microtome.gradients.validate_run import validate_run
from microtome.gradients.validation import Validation
from microtome.targets.language_model import LanguageModel
from microtome.targets.layer_list import layer_words

CHECKPOINT_SECONDS = 30.0
CONFIGS: dict[str, type[GradientConfig]] = {"layers": LayersConfig, "features": FeaturesConfig}


@dataclass(frozen=True)
class Finished:
    """A finished analysis: the result, and where it was written."""

    result: GradientResult
    folder: RunFolder | None
    npz: Path | None
    seconds: float
    validation: Validation | None = None


def run(
    config: GradientConfig,
    *,
    lm: LanguageModel | None = None,
    texts: Sequence[str] | None = None,
    resume: RunFolder | None = None,
    runs_root: str | Path = Path("runs"),
    command: Sequence[str] = (),
    show_progress: bool = True,
    note: Callable[[str], None] = say,
) -> Finished | None:
    """Analyse as the settings say; None in every process but the main one.

    ``lm`` and ``texts`` stand in for ``model_name`` and ``dataset``. ``resume`` carries a stopped run on.
    Raises ``MicrotomeError`` in one line for settings that do not fit the model, the texts or the
    dictionaries, and ``KeyboardInterrupt`` with the command that carries on.
    """
    runs_root = Path(runs_root)
    with processes(config.device) as own:
        quiet = note if own.main else (lambda _: None)
        job = _Job(config, own, runs_root, command or sys.argv, show_progress and own.main, quiet, resume)
        return job.run(lm, None if texts is None else list(texts))


class _Job:
    """One analysis under way."""

    def __init__(
        self,
        config: GradientConfig,
        own: Processes,
        runs_root: Path,
        command: Sequence[str],
        show: bool,
        note: Callable[[str], None],
        resume: RunFolder | None,
    ) -> None:
        self.config, self.processes, self.runs_root = config, own, runs_root
        self.command, self.show, self.note, self.folder = command, show, note, resume
        self.resumed = resume is not None
        self.kind: Kind = "features" if isinstance(config, FeaturesConfig) else "layers"
        self.timing = Timing()
        self.began = time.perf_counter()

    def run(self, lm: LanguageModel | None, texts: list[str] | None) -> Finished | None:
        if lm is None:
            self.config = resolve_names(self.config, self.runs_root)
            with self.timing.measure("model_loading"):
                lm = load_model(self.config, self.processes, self.runs_root)
        else:
            choose_threads(lm, self.config.threads)
        prepared, batches = self._prepare(lm, texts)
        if self.config.save_outputs and self.folder is None:
            self.folder = self._new_folder(prepared)
        with ExitStack() as stack:
            if self.folder is not None and self.processes.main:
                stack.enter_context(only_writer(self.folder.path))
            accumulator = self._accumulate(prepared, batches)
            accumulator.all_reduce(self.processes)
            return self._finish(prepared, accumulator) if self.processes.main else None

    # -- before --------------------------------------------------------------------------------------------

    def _prepare(self, lm: LanguageModel, texts: list[str] | None) -> tuple[Prepared, list[TokenBatch]]:
        c = self.config
        with self.timing.measure("dataset_preparation"):
            dataset = "given texts"
            if texts is None:
                texts, dataset = texts_of(c, self.runs_root)
            if len(texts) < c.num_samples and dataset != "given texts":
                self.note(f"{dataset}: holds {len(texts)} samples, fewer than the {c.num_samples} asked for")
            batches = batches_of(
                texts,
                lm,
                max_length=c.max_length,
                batch_size=c.batch_size,
                processes=self.processes,
                as_original=c.loss_scale == "batch_mean",
            )
        opener = None
        if isinstance(c, FeaturesConfig):
            assert c.sae_path is not None or lm is not None
            opener = opener_of(c.sae_path or "", c.site)
        with self.timing.measure("sae_loading" if opener else "dataset_preparation"):
            prepared = prepare(c, lm, texts, dataset, opener, self.note)
            if opener is not None and isinstance(c, FeaturesConfig) and c.check_dictionary and batches:
                check_dictionaries(prepared.plan, batches[0], prepared.opened)
            if c.max_norm_multiple is not None:
                few = batches_of(texts[:NORM_TEXTS], lm, max_length=c.max_length, batch_size=c.batch_size)
                limits = norm_limits(prepared.plan, few, c.max_norm_multiple)
                prepared = replace(prepared, plan=replace(prepared.plan, norm_limits=limits))
        return prepared, batches

    def _new_folder(self, prepared: Prepared) -> RunFolder:
        c = self.config
        if not self.processes.main:
            return RunFolder(_from_main(None, self.processes))
        path = free_folder(
            c.output_root,
            self.kind,
            c.model_name,
            c.num_samples,
            c.batch_size,
            c.layers or layer_words(prepared.layers),
            aggregate_by=c.aggregate_by,
            power=c.power,
        )
        folder = RunFolder.create(
            path,
            c,
            command=self.command,
            seed=c.seed,
            device=str(prepared.plan.lm.device),
            kind=f"gradients-{self.kind}",
        )
        _from_main(str(folder.path), self.processes)
        return folder

    # -- the passes ----------------------------------------------------------------------------------------

    def _accumulate(self, prepared: Prepared, batches: Sequence[TokenBatch]) -> Accumulator:
        chunks = list(chunked(batches, self.config.max_tokens_in_memory))
        accumulator = Accumulator(prepared.plan, prepared.widths)
        checkpoints = Checkpoints(
            self.folder, self.processes, fingerprint(prepared, self.processes), len(chunks)
        )
        done, samples = checkpoints.restore(accumulator) if self.resumed else (0, 0)
        total = sum(len(batch.index) for batch in batches)
        saved = time.monotonic()
        with stop_signals() as stopped, progress(f"gradients {self.kind}", total, samples, self.show) as bar:
            for number, chunk in enumerate(chunks[done:], done + 1):
                with told_what_to_lower():
                    accumulator.add(chunk)
                samples += sum(len(batch.index) for batch in chunk)
                bar.update(samples)
                last = number == len(chunks)
                if stopped.is_set() or (not last and time.monotonic() - saved > CHECKPOINT_SECONDS):
                    checkpoints.save(accumulator, number, samples)
                    saved = time.monotonic()
                if stopped.is_set() and not last:
                    raise KeyboardInterrupt(self._stopped(samples, total))
        return accumulator

    def _stopped(self, samples: int, total: int) -> str:
        told = f"Stopped after {samples} of {total} samples"
        if self.folder is None:
            return f"{told}; nothing is kept without --save_outputs"
        return f"{told}; carry on with `microtome gradients {self.kind} --resume {self.folder.path}`"

    # -- after ---------------------------------------------------------------------------------------------

    def _finish(self, prepared: Prepared, accumulator: Accumulator) -> Finished:
        c, layers = self.config, prepared.layers
        for layer in layers:
            seconds = accumulator.pass_seconds / len(layers) + accumulator.stage_seconds[layer]
            self.timing.add_layer(layer, "gradient_computation", seconds)
        measured = {layer: scores(s, prepared.plan.magnitudes) for layer, s in accumulator.sums.items()}
        result = GradientResult(self.kind, measured)
        if not any(s.mass.bins[0].sum() for s in accumulator.sums.values()):
            raise MicrotomeError("no token position is left to count; loosen max_norm_multiple or the stride")
        tokens = listed_tokens(
            result, accumulator.sums, prepared.texts, prepared.plan.lm.tokenizer, c.max_length
        )
        facts = self._facts(prepared, accumulator)
        documented = documented_arrays(result, c)
        path = self.folder.path if self.folder is not None else None
        flat = flat_metadata(c, facts, {layer: len(v["gradients_mean"]) for layer, v in measured.items()})
        result = GradientResult(self.kind, measured, flat, tokens, path)
        npz = None
        if c.save_consolidated is not None:
            npz = save_npz(c.save_consolidated, result, documented, c, facts)
        if self.folder is not None:
            save_folder(self.folder, result, documented, c, facts, self.timing)
        validation = None
        if c.validate_top:
            validation = validate_run(prepared, c, self.kind, self.folder, self.show)
        if self.folder is not None:
            self.folder.finish(summary_of(result, facts, validation))
            remove_checkpoints(self.folder)
        return Finished(result, self.folder, npz, time.perf_counter() - self.began, validation)

    def _facts(self, prepared: Prepared, accumulator: Accumulator) -> RunFacts:
        first = next(iter(accumulator.sums.values()))
        loss, weight = accumulator.loss.tolist()
        return RunFacts(
            kind=self.kind,
            layers=prepared.layers,
            layer_words=layer_words(prepared.layers),
            model_type=prepared.plan.lm.family,
            site=prepared.site,
            device=str(prepared.plan.lm.device),
            timestamp=timestamp()[:15],
            samples=len(prepared.texts),
            positions=int(first.mass.bins[0].sum()),
            loss=loss / weight if weight else None,
            processes=self.processes.size,
            dataset=prepared.dataset,
            module_paths=prepared.plan.paths,
            dictionaries=prepared.opened,
            top_token_share={layer: s.mass.share() for layer, s in accumulator.sums.items()},
        )


def summary_of(result: GradientResult, facts: RunFacts, validation: Validation | None) -> dict[str, Any]:
    """``summary.json``: key numbers first, then tables."""
    summary: dict[str, Any] = {
        "layers": len(facts.layers),
        "samples": facts.samples,
        "positions": facts.positions,
    }
    if facts.loss is not None:
        summary["loss"] = facts.loss
    if validation is not None:
        summary["validation"] = validation.summary()
    summary["strongest"] = result.top(5).to_dict("records")
    return summary


def resume(path: str | Path, **how: Any) -> Finished | None:
    """Carry a stopped run on from its last checkpoint. Raises ``CannotLoad``."""
    folder = RunFolder.open(path)
    kind = folder.kind.removeprefix("gradients-")
    if kind not in CONFIGS:
        raise CannotLoad(f"{folder.path}: a {folder.kind} run, not one of `microtome gradients`")
    if folder.finished:
        raise CannotLoad(f"{folder.path}: finished already; there is nothing to carry on")
    return run(CONFIGS[kind].from_mapping(folder.config), resume=folder, **how)


def _from_main(value: Any, processes: Processes) -> Any:
    """What the main process gives, in every process."""
    if processes.size == 1:
        return value
    box = [value]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]
