"""A comparison from settings to files: every analysis, its pictures, and what may be claimed."""

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from microtome.comparison.activations import Activations, collect
from microtome.comparison.analyses import analyse, draw
from microtome.comparison.arms import Arm, Arms
from microtome.comparison.config import CompareConfig
from microtome.comparison.layers import Matching, TracedLayer, match_layers, trace_layers
from microtome.comparison.part import Part
from microtome.comparison.result import AFTER, KIND, Comparison, load_comparison, save_results
from microtome.comparison.saved import load_part, save_part
from microtome.comparison.setup import Material, Note, prepare
from microtome.core.device import resolve_device, say, set_threads, tune_allocator
from microtome.core.errors import CannotLoad, bad_value
from microtome.core.progress import Progress, progress
from microtome.core.run_lock import only_writer
from microtome.core.run_start import MARKER
from microtome.core.runs import RunFolder
from microtome.data.labelled_images import LabelledImages
from microtome.targets.image_network import ImageNetwork

Collected = dict[str, list[Activations]]
# What a new comparison in the same folder replaces.
OWN = (
    "results",
    "weight_analysis",
    "activation_analysis",
    "similarity",
    "autoencoder_analysis",
    "probe_analysis",
    "adaptation",
    "after_adaptation",
    "activations",
)
OWN_FILES = ("summary.json", "results.json", "results.csv", "claims.csv", "report.html")


def run(
    config: CompareConfig,
    *,
    networks: Sequence[tuple[ImageNetwork, ...]] | None = None,
    images: LabelledImages | None = None,
    resume: bool = False,
    command: Sequence[str] = (),
    show_progress: bool = True,
    note: Note = say,
) -> Comparison:
    """Compare as the settings say and write everything into ``config.output_dir``.

    ``networks`` (a tuple of seeds an arm) and ``images`` stand in for those that the settings name.
    ``resume`` keeps the analyses that an earlier, stopped run of the same settings finished there. Raises
    ``MicrotomeError`` in one line where networks and images do not fit each other; nothing is written then.
    """
    set_threads(config.threads, small=True)
    tune_allocator()
    material = prepare(config, note, networks, images)
    job = _Job(config, material, note)
    folder = _folder(config, resume, command, note)
    with only_writer(folder.path), progress("compare", job.work, enabled=show_progress) as bar:
        parts = job.run(folder, bar)
    if not config.keep_activations:
        shutil.rmtree(folder.path / "activations", ignore_errors=True)
    comparison = Comparison(folder, parts, job.facts(parts))
    save_results(comparison)
    return comparison


def redraw(path: str | Path, note: Note = say) -> Comparison:
    """Draw every picture of a finished comparison again, without computing anything."""
    comparison = load_comparison(path)
    for name, part in comparison.parts.items():
        _save_pictures(comparison.folder, name, part)
        note(f"{name}: drawn")
    return comparison


def _folder(config: CompareConfig, resume: bool, command: Sequence[str], note: Note) -> RunFolder:
    path = config.output_dir
    if resume:
        folder = RunFolder.open(path)
        if folder.kind != KIND:
            raise CannotLoad(f"{path}: a {folder.kind} run, not a comparison")
        return folder
    _refuse_occupied(path)
    if (path / MARKER).is_file():
        note(f"{path}: replacing the comparison that was there")
    folder = RunFolder.create(
        path,
        config,
        command=command or sys.argv,
        seed=config.seed,
        device=str(resolve_device(config.device, note=None)),
        kind=KIND,
        reuse=True,
    )
    for name in OWN:
        shutil.rmtree(path / name, ignore_errors=True)
    for name in OWN_FILES:
        (path / name).unlink(missing_ok=True)
    return folder


def _refuse_occupied(path: Path) -> None:
    """Raise ``MicrotomeError`` where a new comparison would replace what is not an earlier comparison's."""
    choose = "choose another --output-dir"
    if path.is_file():
        raise bad_value("output_dir", str(path), "is a file", choose)
    if (path / MARKER).is_file():
        kind = RunFolder.open(path).kind
        if kind != KIND:
            raise bad_value("output_dir", str(path), f"already holds a run ({kind})", choose)
        return
    there = [name for name in (*OWN, *OWN_FILES) if (path / name).exists()]
    if there:
        held = f"holds {', '.join(there)} of no comparison made here, which would be replaced"
        raise bad_value("output_dir", str(path), held, choose)


@dataclass(frozen=True)
class _Stage:
    """The arms at one moment: as they came, or after their adaptation."""

    prefix: str  # of result names and picture folders
    arms: tuple[Arm, ...]
    floors: dict[str, Arm]


class _Job:
    """One comparison under way."""

    def __init__(self, config: CompareConfig, material: Material, note: Note) -> None:
        self.config, self.material, self.note = config, material, note
        self.device = str(resolve_device(config.device, note))
        self.matching = self._match()
        self.layers = self.matching.layers
        stages = 2 if material.support is not None else 1
        networks = sum(len(arm.networks) for arm in (*material.arms, *_unique(material.floors)))
        self.work = stages * (networks + len(config.analyses)) + (stages - 1) * (networks + 1)
        self.done = 0
        self.images = material.images

    def _match(self) -> Matching:
        """Which layers are set side by side; told in lines."""
        images = self.material.images
        traces = {
            arm.name: trace_layers(arm.networks[0], _two(arm.networks[0], images))
            for arm in self.material.arms
        }
        matching = match_layers(traces, dict(pair.split("=") for pair in self.config.layer_map))
        matching = _without_unequal_heads(matching, traces, self.note)
        same = [layer.label for layer in matching.layers if len(set(layer.names.values())) == 1]
        if same:
            self.note(f"layers of one name: {', '.join(same)}")
        for layer in matching.layers:
            if layer.label not in same:
                self.note("layers matched: " + " = ".join(f"{arm} {n}" for arm, n in layer.names.items()))
        for remark in matching.remarks:
            self.note(remark)
        return matching

    def run(self, folder: RunFolder, bar: Progress) -> dict[str, Part]:
        before = _Stage("", self.material.arms, self.material.floors)
        parts, collected = self._stage(folder, before, bar)
        if self.material.support is not None:
            after = self._adapted(before, self.material.support, bar)
            more, adapted = self._stage(folder, after, bar)
            parts |= more
            parts |= self._adaptation(folder, before, collected, adapted, bar)
        return parts

    def _stage(self, folder: RunFolder, stage: _Stage, bar: Progress) -> tuple[dict[str, Part], Collected]:
        arms = Arms(stage.arms, stage.floors, self.layers)
        collected = self._collect(folder, stage, bar)
        parts = {}
        for name in self.config.analyses:
            full = f"{stage.prefix}{name}"
            part = load_part(folder, full)
            if part is None:
                part = analyse(name, arms, collected, self.images, self.config, self.note)
                save_part(folder, part, full)
                _save_pictures(folder, full, part)
            parts[full] = part
            self._advance(bar)
        return parts, collected

    def _collect(self, folder: RunFolder, stage: _Stage, bar: Progress) -> Collected:
        """Activations of every network, untrained ones too: arm name -> one a seed."""
        collected: Collected = {}
        if self.config.analyses == ("weights",) and self.material.support is None:
            return collected  # weights need no activations
        for arm in (*stage.arms, *_unique(stage.floors)):
            owner = next((own for own, floor in stage.floors.items() if floor is arm), arm.name)
            for seed, network in enumerate(arm.networks):
                place = folder.path / "activations" / f"{stage.prefix}{arm.name}" / str(seed)
                collected.setdefault(arm.name, []).append(
                    collect(
                        network,
                        self.images,
                        self.layers,
                        owner,
                        batch_size=self.config.batch_size,
                        pool=self.config.pool,
                        bn=self.config.bn,
                        folder=place,
                        device=self.device,
                    )
                )
                self._advance(bar)
        return collected

    def _adapted(self, stage: _Stage, support: LabelledImages, bar: Progress) -> _Stage:
        from microtome.comparison.adaptation import adapted_arm

        def adapt(arm: Arm) -> Arm:
            changed = adapted_arm(arm, support, self.config, self.device)
            for _ in arm.networks:
                self._advance(bar)
            return changed

        floors = {id(floor): adapt(floor) for floor in _unique(stage.floors)}
        return _Stage(
            AFTER,
            tuple(adapt(arm) for arm in stage.arms),
            {name: floors[id(floor)] for name, floor in stage.floors.items()},
        )

    def _adaptation(
        self, folder: RunFolder, stage: _Stage, before: Collected, after: Collected, bar: Progress
    ) -> dict[str, Part]:
        from microtome.comparison.adaptation import analyse_adaptation

        part = load_part(folder, "adaptation")
        if part is None:
            arms = Arms(stage.arms, stage.floors, self.layers)
            part = analyse_adaptation(arms, before, after, self.images, self.config)
            save_part(folder, part, "adaptation")
            _save_pictures(folder, "adaptation", part)
        self._advance(bar)
        return {"adaptation": part}

    def _advance(self, bar: Progress) -> None:
        self.done += 1
        bar.update(self.done)

    def facts(self, parts: dict[str, Part]) -> dict[str, object]:
        """What ``results.json`` tells besides the numbers."""
        images = self.material.images
        return {
            "arms": {arm.name: [str(n.source or n.name) for n in arm.networks] for arm in self.material.arms},
            "untrained": {name: len(floor.networks) for name, floor in self.material.floors.items()},
            "layers": {layer.label: layer.names for layer in self.layers},
            "data": images.source,
            "images": len(images),
            "labels": {name: len(labels.names) for name, labels in images.labels.items()},
            "analyses": list(parts),
        }


def _without_unequal_heads(
    matching: Matching, traces: Mapping[str, Sequence[TracedLayer]], note: Note
) -> Matching:
    """The matching without last layers of unequal width: they answer different questions."""
    heads = {arm: layers[-1] for arm, layers in traces.items()}
    last = matching.layers[-1]
    widths = sorted({layer.shape for layer in heads.values()})
    if len(matching.layers) < 2 or len(widths) == 1:
        return matching
    if any(last.names[arm] != head.name for arm, head in heads.items()):
        return matching
    note(f"{last.label}: left out, it tells {' and '.join(str(w[0]) for w in widths)} classes apart")
    remarks = tuple(line for line in matching.remarks if last.label not in line)
    return replace(matching, layers=matching.layers[:-1], remarks=remarks)


def _two(network: ImageNetwork, images: LabelledImages) -> Tensor:
    place = next(network.module.parameters()).device
    return images.inputs(slice(0, 2), mean=network.mean, std=network.std).to(place)


def _unique(floors: dict[str, Arm]) -> list[Arm]:
    return list({id(floor): floor for floor in floors.values()}.values())


def _save_pictures(folder: RunFolder, name: str, part: Part) -> None:
    prefix = AFTER if name.startswith(AFTER) else ""
    for path, figure in draw(part):
        place = Path(prefix) / path
        folder.save_figure(place.stem, figure, where=str(place.parent))
