"""Training dictionaries: on any activations (``fit``), or on a language model's, as a run."""

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from microtome.core.device import say, set_threads, tune_allocator
from microtome.core.distributed import Processes, process_device, processes, wait_for_all
from microtome.core.errors import CannotLoad, MicrotomeError
from microtome.core.run_lock import only_writer
from microtome.core.runs import RunFolder, timestamp
from microtome.core.tracking import open_tracker
from microtome.data.text import read_texts
from microtome.dictionaries.activations import LanguageModelSource, TokenChoice, site_name
from microtome.dictionaries.buffer import Source, TensorSource
from microtome.dictionaries.dictionary import Dictionary
from microtome.dictionaries.formats import save_dictionary
from microtome.dictionaries.loop import TrainingLoop
from microtome.dictionaries.report import draw_training, evaluate_run, held_out_split
from microtome.dictionaries.train_config import DictionaryTrainConfig, DictionaryTraining
from microtome.targets.language_model import LanguageModel, load_language_model
from microtome.targets.layer_list import choose_layers, layer_words

KIND = "dictionary"
Chunk = Tensor | Mapping[str, Tensor]
Activations = Source | Tensor | Mapping[str, Tensor] | Iterable[Chunk] | Callable[[], Iterable[Chunk]]


def fit(
    activations: Activations,
    config: DictionaryTraining | None = None,
    *,
    site: str = "activations",
    place: Mapping[str, Any] | None = None,
    show_progress: bool = False,
) -> dict[str, Dictionary]:
    """Train a dictionary on each site of any stream of activations, without touching the disk.

    ``activations``: a tensor ``[n, d]``, an iterable of such chunks (a list, a DataLoader, a function that
    makes a new iterator), or of mappings site -> chunk with the same rows at every site. What can be run
    through again is, as often as ``config.steps`` needs. ``place``: ``site``, ``layer``, ``model_name`` for
    the dictionaries' configuration. Raises ``MicrotomeError`` and ``Diverged``.
    """
    config = config or DictionaryTraining()
    source = activations if isinstance(activations, Source) else TensorSource(activations, site)
    with processes(config.device) as group:
        loop = TrainingLoop(
            source,
            config,
            place=lambda _: place or {},
            processes=group,
            device=process_device(config.device, group),
            show=show_progress,
        )
        return loop.train()


def train_dictionaries(
    config: DictionaryTrainConfig,
    *,
    runs_root: str | Path = Path("runs"),
    out_dir: str | Path | None = None,
    command: Sequence[str] = (),
    show_progress: bool = True,
) -> RunFolder:
    """Train one dictionary on each layer of a language model, all on the same pass, and write the run.

    ``layers.{i}.{site}/`` hold the dictionaries, ``results/`` and ``plots/`` what they are worth on held-out
    text. Raises ``MicrotomeError``, ``Diverged``, and ``KeyboardInterrupt`` when stopped, everything saved.
    """
    with processes(config.device) as group:
        job = _Job(config, group, runs_root, show_progress)
        name = f"dictionary_{config.architecture}_{config.site}_layers_{layer_words(job.layers)}"
        name = f"{name.replace('-', 'to').replace(',', '_')}_seed{config.seed}_{timestamp()}"
        path = Path(out_dir) if out_dir is not None else Path(runs_root) / name
        run = RunFolder(path)
        existed = path.exists()
        if group.main:
            run = RunFolder.create(
                path,
                config,
                command=command or sys.argv,
                seed=config.seed,
                device=str(job.device),
                kind=KIND,
            )
        try:
            with only_writer(run.path) if group.main else contextlib.nullcontext():
                return job.work(run)
        except BaseException:
            if group.main and not run.checkpoint_steps():
                shutil.rmtree(path, ignore_errors=True)
                if existed:
                    path.mkdir(parents=True, exist_ok=True)
            raise


def resume_dictionaries(
    path: str | Path, *, runs_root: str | Path = Path("runs"), show_progress: bool = True
) -> RunFolder:
    """Carry a stopped run on from its last checkpoint, bit for bit on a CPU. Raises ``CannotLoad``."""
    run = RunFolder.open(path)
    if run.kind != KIND:
        raise CannotLoad(f"{run.path}: a {run.kind} run; only {KIND} runs are carried on here")
    if run.finished:
        return run
    config = DictionaryTrainConfig.from_mapping(run.config, str(run.path / "config.yaml"))
    with processes(config.device) as group:
        job = _Job(config, group, runs_root, show_progress)
        with only_writer(run.path) if group.main else contextlib.nullcontext():
            checkpoint = run.latest_checkpoint()
            if checkpoint is None:
                raise CannotLoad(f"{run.path}: holds no checkpoint to carry on from; start the run again")
            return job.work(run, checkpoint)


class _Job:
    """A language model, its texts and layers, and the training on them."""

    def __init__(
        self, config: DictionaryTrainConfig, group: Processes, runs_root: str | Path, show: bool
    ) -> None:
        self.config, self.group, self.show = config, group, show
        self.device = process_device(config.device, group)
        set_threads(config.threads, small=group.size > 1)
        tune_allocator()
        self.lm = load_language_model(
            config.model,
            device=str(self.device),
            dtype=config.model_dtype,
            device_map=config.device_map,
            site_path=config.module_path,
            runs_root=runs_root,
        )
        self.layers = choose_layers(config.layers, self.lm.n_layers)
        self.texts = read_texts(config.dataset, text_field=config.text_field, split=config.split)
        self.evaluate = config.evaluate and group.main and self._held_out_is_there()

    def _held_out_is_there(self) -> bool:
        """Whether the dictionaries can be judged at the end; told at the beginning where they cannot."""
        try:
            read_texts(
                self.config.dataset,
                text_field=self.config.text_field,
                split=held_out_split(self.config.split),
                limit=1,
            )
        except MicrotomeError as error:
            say(f"evaluate: no held-out text, so that the dictionaries will not be judged ({error})")
            return False
        return True

    def work(
        self, run: RunFolder, checkpoint: tuple[int, dict[str, Tensor], dict] | None = None
    ) -> RunFolder:
        """Train, save, measure."""
        c, group = self.config, self.group
        tracker = open_tracker(
            c.tracker if group.main else "none", run, c.wandb_project, run.path.name, c.as_dict()
        )
        try:
            loop = TrainingLoop(
                language_model_source(c, self.lm, self.texts, self.layers, group),
                c,
                run=run,
                place=self._places().__getitem__,
                processes=group,
                device=self.device,
                tracker=tracker,
                show=self.show,
                resume_hint=lambda: f"microtome dictionary train --resume {run.path}",
            )
            if checkpoint is not None:
                loop.restore(*checkpoint)
            dictionaries = loop.train()
            if group.main:
                self._finish(run, loop, dictionaries)
            wait_for_all(group)
        finally:
            tracker.finish()
        return run

    def _places(self) -> dict[str, dict[str, Any]]:
        return {
            site_name(layer, self.config.site): {
                "site": self.config.site,
                "layer": layer,
                "hook": self.lm.path(layer, self.config.site),
                "model_name": self.lm.name,
            }
            for layer in self.layers
        }

    def _finish(self, run: RunFolder, loop: TrainingLoop, dictionaries: dict[str, Dictionary]) -> None:
        for name, dictionary in dictionaries.items():
            save_dictionary(dictionary, run.path / name, self.config.format)
        draw_training(run)
        summary: dict[str, Any] = {"steps": self.config.steps}
        rows = run.metrics()
        summary["train_fvu"] = [rows[-1][f"{name}/fvu"] for name in dictionaries]
        source = loop.batches.source
        if isinstance(source, LanguageModelSource) and source.dropped:
            summary["share_of_tokens_left_out"] = source.dropped / source.seen
        if self.evaluate:
            summary |= evaluate_run(run, self.lm, dictionaries, self.config)
        run.finish(summary)


def language_model_source(
    config: DictionaryTrainConfig,
    lm: LanguageModel,
    texts: Sequence[str],
    layers: Sequence[int],
    group: Processes,
) -> LanguageModelSource:
    """The stream that ``config`` asks for. Raises ``MicrotomeError``."""
    return LanguageModelSource(
        lm,
        texts,
        layers,
        config.site,
        max_length=min(config.max_length, lm.context_length),
        texts_at_once=config.texts_at_once,
        choice=TokenChoice(config.skip_first, config.max_norm_multiple),
        seed=config.seed,
        processes=group,
    )
