import json
from pathlib import Path

import numpy as np
import pytest
import torch

from microtome.cli.main import main
from microtome.core.errors import MicrotomeError
from microtome.core.tensor_files import load_state_dict
from microtome.targets.image_network import initial_of, open_network
from microtome.training.few_shot import train_few_shot
from microtome.training.few_shot_config import FewShotTrainConfig
from microtome.training.few_shot_data import few_shot_images
from microtome.training.few_shot_loop import fit_few_shot
from microtome.training.few_shot_measures import estimate
from microtome.training.few_shot_network import network_architecture, new_network

QUICK = {
    "steps": 3,
    "tasks": 2,
    "channels": 4,
    "test_episodes": 3,
    "adapt_steps": (0, 1, 2),
    "batch_size": 16,
}


def run_of(tmp_path: Path, **settings):
    config = FewShotTrainConfig(**(QUICK | settings))
    return train_few_shot(config, runs_root=tmp_path, show_progress=False)


@pytest.mark.parametrize("algorithm", ["maml", "fomaml", "reptile", "anil", "supervised"])
def test_a_run_holds_a_network_that_opens_again(tmp_path, algorithm):
    run = run_of(tmp_path, algorithm=algorithm)
    assert run.kind == "train-few-shot" and run.finished
    network = open_network(str(run.path))
    assert (network.channels, network.size, network.mean, network.std) == (1, 8, 0.5, 0.5)
    saved = load_state_dict(run.path / "model.safetensors")
    outputs = 28 if algorithm == "supervised" else 3
    assert saved["classifier.weight"].shape == (outputs, 4)
    started = initial_of(network)
    assert started is not None
    moved = {
        name for name, value in started.module.state_dict().items() if not torch.equal(value, saved[name])
    }
    assert "blocks.0.conv.weight" in moved and "classifier.weight" in moved
    assert sorted(path.name for path in (run.path / "plots").iterdir()) == ["adaptation.png", "training.png"]
    heads = {row["head"] for row in run.summary["accuracies"]}
    assert heads == {"fresh", "centroid"} | ({"own"} if algorithm != "supervised" else set())
    row = run.summary["best"]["5"]
    assert row["steps"] == 2 and row["trained"]["n"] == 3 and "untrained" in row
    values = run.load_arrays("accuracies")[f"trained_{row['head']}_5"][:, -1]
    assert row["trained"]["mean"] == pytest.approx(values.mean())


def test_the_same_seed_gives_the_same_network_and_two_algorithms_start_from_two():
    def trained(**settings):
        config = FewShotTrainConfig(**(QUICK | settings))
        images = few_shot_images(config)
        module = new_network(config, network_architecture(config, 1, 8, 3))
        start = module.blocks[0].conv.weight.detach().clone()
        fit_few_shot(module, images, config)
        return start, module.blocks[0].conv.weight

    (start, end), again = trained(), trained()
    assert torch.equal(start, again[0]) and torch.equal(end, again[1]) and not torch.equal(start, end)
    assert not torch.equal(start, trained(seed=1)[0])
    assert not torch.equal(start, trained(algorithm="fomaml")[0])
    shared = trained(init_seed=4), trained(init_seed=4, algorithm="fomaml")
    assert torch.equal(shared[0][0], shared[1][0]) and not torch.equal(shared[0][1], shared[1][1])


def test_classes_are_trained_on_or_tested_on_never_both():
    images = few_shot_images(FewShotTrainConfig())
    assert images.train.labels["digit"].names == tuple("0123456")
    assert images.test.labels["digit"].names == tuple("789")
    problems = few_shot_images(FewShotTrainConfig(images="same-different#1,4,9", size=32, limit=8))
    assert problems.train.labels["problem"].names == ("1",) and len(problems.train) == 8
    assert problems.test.labels["problem"].names == ("4", "9", "22")
    assert problems.train.pixels.shape[1:] == (1, 32, 32)
    last_third = few_shot_images(FewShotTrainConfig(held_out=None))
    assert last_third.test.labels["digit"].names == tuple("789")


@pytest.mark.parametrize("algorithm", ["fomaml", "supervised"])
def test_networks_of_the_same_different_studies_learn_their_rates(tmp_path, algorithm):
    run = run_of(
        tmp_path,
        algorithm=algorithm,
        images="same-different#1,4",
        held_out=("4",),
        network="conv2lr(widths=[16,16])",
        size=32,
        limit=40,
        steps=2,
        adapt_steps=(0, 1),
        test_episodes=2,
    )
    network = open_network(str(run.path))
    assert network.channels == 3 and network.size == 32
    saved = load_state_dict(run.path / "model.safetensors")
    if algorithm == "fomaml":
        assert (
            saved["lr_conv.0"].item() != load_state_dict(run.path / "initial.safetensors")["lr_conv.0"].item()
        )
    else:
        assert "lr_conv.0" not in saved


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["maml", "supervised"])
def test_training_on_digits_beats_the_untrained_network_at_few_steps(tmp_path, algorithm):
    config = FewShotTrainConfig(algorithm=algorithm, test_shots=(1,), test_episodes=60)
    rows = train_few_shot(config, runs_root=tmp_path, show_progress=False).summary["accuracies"]
    head, steps = ("own", 1) if algorithm == "maml" else ("centroid", 0)
    row = next(row for row in rows if row["head"] == head and row["steps"] == steps)
    assert row["difference"]["low"] > 0.05


def test_command_says_accuracy_beside_the_untrained_network(tmp_path, capsys):
    words = ["train", "few-shot", "--quiet", "--out_dir", str(tmp_path / "run"), "--test_shots", "1"]
    for name, value in QUICK.items():
        words += [f"--{name}", *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "accuracy on new classes, 1 a class" in said and "untrained" in said
    config = json.loads(json.dumps((tmp_path / "run" / "config.yaml").read_text()))
    assert "algorithm: maml" in config and "steps: 3" in config


def test_each_source_and_algorithm_brings_its_defaults_and_flags_win():
    assert FewShotTrainConfig(images="omniglot:there").rotations
    assert FewShotTrainConfig(images="omniglot:there").held_out == ("Balinese", "Early_Aramaic", "Tagalog")
    assert FewShotTrainConfig(images="same-different").within == "problem"
    assert FewShotTrainConfig(algorithm="reptile").inner_steps == 5
    assert FewShotTrainConfig(algorithm="reptile", inner_steps=2).inner_steps == 2
    own = FewShotTrainConfig(images="folder:here")
    assert own.label is None and own.held_out is None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"algorithm": "mamel"}, "algorithm"),
        ({"ways": 1}, "ways=1: nothing to tell apart"),
        ({"adapt_steps": (5, 1)}, "adapt_steps=.*not rising"),
        ({"ways": 4}, "ways=4: only 3 classes of 'digit'"),
        ({"queries": 400}, "queries=400: digit .* images for them and for shots=1"),
        ({"held_out": ("7", "ten")}, "has no such class"),
        ({"label": "digits"}, "did you mean digit"),
        ({"images": "same-different#one"}, "problem 'one' is no number"),
        ({"images": "same-different#6,7"}, "problem=6: no generator for it"),
        ({"network": "conv3"}, "conv3"),
        ({"network": "conv2lr", "algorithm": "reptile"}, "reptile does not learn inner rates"),
        ({"network": "torch.nn:Linear(in_features=8, out_features=3)"}, r"gives \[2, 1, 8, 3\] for 2 images"),
        ({"network": "torch.nn:Linear(in_features=9, out_features=3)"}, "does not take images of 1x8x8"),
    ],
)
def test_what_cannot_be_is_said_before_training(tmp_path, settings, said):
    with pytest.raises(MicrotomeError, match=said) as caught:
        config = FewShotTrainConfig.from_mapping(QUICK | settings)
        train_few_shot(config, runs_root=tmp_path, show_progress=False)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_intervals():
    values = np.array([0.2, 0.4, 0.6, 0.8])
    found = estimate(values)
    assert found.mean == pytest.approx(0.5) and found.n == 4
    assert found.high - found.mean == pytest.approx(1.96 * np.sqrt(0.2 / 3) / 2)
    assert estimate(values[:1]).low == estimate(values[:1]).high == 0.2
