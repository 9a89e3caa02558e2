"""Sweeps of our own commands: parameters reach them, and those that share shapes run together."""

import json
import shutil

import pytest
import yaml

from microtome.cli.main import main
from microtome.cli.programs import OurPrograms
from microtome.cli.sweep_parameters import sweep_parameters
from microtome.core.errors import MicrotomeError
from microtome.core.runs import RunFolder
from microtome.sweep.jobs import Workshop
from microtome.sweep.plan import make_plan
from microtome.sweep.record import Trial
from microtome.sweep.run import dry_run, new_start
from microtome.training.config import TMSTrainConfig
from microtome.training.toy import train_tms

SMALL = {
    "steps": {"value": 4},
    "n_eval_steps": {"value": 1},
    "batch_size": {"value": 16},
    "C": {"value": 6},
    "pictures": {"value": False},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A target that has hardly been trained."""
    root = tmp_path_factory.mktemp("trained")
    config = TMSTrainConfig.from_mapping(
        {"steps": 3, "keep": 2, "tms_model_config": {"n_features": 5, "n_hidden": 2, "n_instances": 2}}
    )
    return train_tms(config, runs_root=root, show_progress=False).path


@pytest.fixture
def target(world, trained):
    """The same in the runs of this test, where `latest` finds it."""
    return shutil.copytree(trained, world.path / "runs" / trained.name)


@pytest.fixture
def parameter_file(tmp_path, monkeypatch):
    def write(text):
        path = tmp_path / "parameters.yaml"
        path.write_text(text)
        monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", str(path))

    return write


# -- the hook in the commands


def test_parameters_are_read_as_wandb_writes_them(parameter_file):
    assert sweep_parameters() == {}
    parameter_file(
        "wandb_version: 1\n\nlr:\n  value: 0.1\nt:\n  value: {p: 1, q: [2]}\nb.c:\n  value: null\n"
    )
    assert sweep_parameters() == {"lr": 0.1, "t.p": 1, "t.q": [2], "b.c": None}


def test_a_broken_parameter_file_is_one_line(parameter_file, monkeypatch):
    parameter_file("lr: 0.1\n")
    with pytest.raises(MicrotomeError, match=r"lr=0.1: not a parameter; write `lr: \{value: ...\}`"):
        sweep_parameters()
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", "nowhere.yaml")
    with pytest.raises(MicrotomeError, match=r"WANDB_SWEEP_PARAM_PATH=nowhere.yaml: no such file"):
        sweep_parameters()


def test_a_decomposition_takes_them_over_its_file_old_names_too(world, target, parameter_file, capsys):
    old = world.path / "old.yaml"
    old.write_text(
        f"pretrained_model_path: {target}\nm: 9\nlp_sparsity_coeff: 1e-3\nparam_match_coeff: 1.0\nsteps: 4\n"
        "task_config: {task_name: tms, feature_probability: 0.5}\nn_eval_steps: 1\nbatch_size: 16\n"
        "pictures: false\n"
    )
    parameter_file(
        "wandb_version: 1\nlp_sparsity_coeff: {value: 0.25}\nC: {value: 5}\n"
        "task_config: {value: {feature_probability: 0.125}}\n"
    )
    assert main(["decompose", str(old), "--out_dir", "made", "--C", "7", "--quiet"]) == 0
    config = RunFolder.open("made").config
    assert config["importance_minimality_coeff"] == 0.25
    assert config["C"] == 5
    assert config["task_config"]["feature_probability"] == 0.125
    parameter_file("learning: {value: 1}\n")
    capsys.readouterr()
    assert main(["decompose", str(old), "--out_dir", "not_made"]) == 2
    assert "--learning: not a flag of SPD" in capsys.readouterr().err
    assert not (world.path / "not_made").exists()


def test_training_takes_them_too(world, parameter_file):
    parameter_file("steps: {value: 3}\ntms_model_config: {value: {n_features: 4}}\n")
    assert (
        main(
            [
                "train",
                "tms",
                "train_tms_5-2",
                "--out_dir",
                "made",
                "--quiet",
                "--tms_model_config.n_instances",
                "2",
                "--keep",
                "2",
            ]
        )
        == 0
    )
    config = RunFolder.open("made").config
    assert config["steps"] == 3 and config["tms_model_config"]["n_features"] == 4


# -- an old sweep file, unchanged


def old_file(world, **parameters):
    return world.file(
        program="spd/experiments/tms/tms_decomposition.py",
        command=["${env}", "${interpreter}", "${program}", "spd/experiments/tms/tms_5-2_config.yaml"],
        metric={"name": "total_loss", "goal": "minimize"},
        parameters=SMALL | parameters,
    )


def test_an_old_file_runs_as_one_batched_program_of_complete_runs(world, target):
    path = old_file(
        world,
        seed={"values": [0, 1]},
        lp_sparsity_coeff={"values": ["5e-4", "1e-3"]},
        instances={"value": [0]},
    )
    assert main(["sweep", str(path), "-j", "1", "--quiet"]) == 0
    (folder,) = (p for p in (world.path / "runs").iterdir() if p.name.startswith("sweep-"))
    for index, (seed, coefficient) in enumerate([(0, 5e-4), (0, 1e-3), (1, 5e-4), (1, 1e-3)]):
        run = RunFolder.open(folder / f"trial_{index:04d}")
        assert run.finished and run.kind == "decompose-spd"
        assert (run.config["seed"], run.config["importance_minimality_coeff"]) == (seed, coefficient)
        assert run.config["pretrained_model_path"] == str(target)  # what `latest` was
    assert [p.name for p in (folder / "logs").iterdir()] == ["trial_0000.txt"]  # one process
    assert not list(folder.glob(".together-*"))
    best = RunFolder.open(folder).summary["best"]
    assert best["total_loss"] > 0


def test_without_batches_each_runs_by_itself(world, target, in_process):
    path = old_file(world, seed={"values": [0, 1]}, instances={"value": [0]})
    assert main(["sweep", str(path), "-j", "2", "--quiet", "--no_batch", "--out_dir", "out"]) == 0
    assert [job.trials for job in in_process] == [(0,), (1,)]
    configs = [RunFolder.open(world.path / "out" / f"trial_000{k}").config for k in range(2)]
    assert [config["seed"] for config in configs] == [0, 1]


def workshop(world, path, **settings):
    made = world.settings(path, **settings)
    return Workshop(make_plan(made, OurPrograms(), lambda _: None), made, OurPrograms(), world.path / "out")


def trials_of(shop):
    search = shop.plan.search
    return [Trial(i, search.propose(i, []).parameters) for i in range(search.total)]


def test_groups_share_shapes_and_are_spread_over_the_slots(world):
    path = old_file(world, C={"values": [5, 6]}, seed={"values": list(range(5))})
    shop = workshop(world, path)
    by_index = [[t.index for t in group] for group in shop.groups(trials_of(shop), 1)]
    assert by_index == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    spread = shop.groups(trials_of(shop), 2)
    assert [len(group) for group in spread] == [3, 2, 3, 2]
    small = workshop(world, path, batch=2).groups(trials_of(shop), 1)
    assert [len(group) for group in small] == [2, 2, 1, 2, 2, 1]
    assert all(len(group) == 1 for group in workshop(world, path, batch=1).groups(trials_of(shop), 1))


def test_early_termination_turns_batches_off(world):
    old_file(world, seed={"values": [0, 1]})
    mapping = yaml.safe_load((world.path / "sweep.yaml").read_text())
    (world.path / "sweep.yaml").write_text(yaml.safe_dump(mapping | {"early_terminate": {"min_iter": 3}}))
    shop = workshop(world, world.path / "sweep.yaml")
    assert [len(group) for group in shop.groups(trials_of(shop), 1)] == [1, 1]


def test_a_batch_that_fails_is_run_one_by_one(world, target, in_process, monkeypatch, capsys):
    """One member that diverges ends the program of all, and must not take the others with it."""

    def diverges(path):
        print("a loss is not finite")
        return 2

    path = old_file(world, seed={"values": [0, 1]}, instances={"value": [0]})
    monkeypatch.setattr("microtome.sweep.batch.main", diverges)
    assert main(["sweep", str(path), "--quiet", "--out_dir", "out"]) == 0
    assert [job.trials for job in in_process] == [(0, 1), (0,), (1,)]
    assert "trials 0 to 1 together: a loss is not finite; now each by itself" in capsys.readouterr().err
    rows = [json.loads(line) for line in (world.path / "out" / "trials.jsonl").read_text().splitlines()]
    assert [row["status"] for row in rows if row["index"] == 0] == [
        "running",
        "interrupted",
        "running",
        "finished",
    ]


def test_an_interrupted_batch_is_carried_on_as_one(world, target, in_process):
    path = old_file(world, seed={"values": [0, 1, 2]}, instances={"value": [0]})
    arguments = ["sweep", str(path), "--quiet", "--out_dir", "out"]
    assert main(arguments) == 0
    record = world.path / "out" / "trials.jsonl"
    record.write_text("".join(record.read_text().splitlines(keepends=True)[:3]))  # all three still running
    assert main(arguments) == 0
    assert [job.trials for job in in_process] == [(0, 1, 2)]  # they had finished: nothing to run
    record.write_text("".join(record.read_text().splitlines(keepends=True)[:3]))
    for k in range(3):
        shutil.rmtree(world.path / "out" / f"trial_000{k}")
    assert main(arguments) == 0
    assert [job.trials for job in in_process] == [(0, 1, 2)] * 2


def test_a_bad_combination_fails_and_a_hopeless_sweep_is_refused(world, target, capsys):
    path = old_file(world, lr={"values": [-1, 0.1]})
    start = new_start(world.settings(path), None, OurPrograms(), lambda _: None)
    (bad,), (good,) = dry_run(start, OurPrograms(), 1)
    assert "lr=-1" in bad[0].reason and good[0].reason == ""
    capsys.readouterr()
    assert main(["sweep", str(old_file(world, lr={"values": [-1, -2]})), "--quiet"]) == 2
    assert "lr=-1: must be greater than 0" in capsys.readouterr().err
    assert [p for p in (world.path / "runs").iterdir() if p.name.startswith("sweep")] == []


def test_a_sweep_of_latest_without_a_target_is_refused(world, capsys):
    assert main(["sweep", str(old_file(world, seed={"values": [0]})), "--quiet"]) == 2
    assert "latest: no train-tms run" in capsys.readouterr().err
    assert not (world.path / "runs").exists()


def test_the_later_form_runs_recipes_over_its_sections(world, target, in_process, capsys):
    path = world.path / "sweep_params.yaml"
    small = {name: {"values": [entry["value"]]} for name, entry in SMALL.items()}
    sections = {
        "global": {"seed": {"values": [3]}, **small, "instances": {"values": [[0]]}},
        "tms_5-2": {
            "loss_metric_configs": [{"classname": "ImportanceMinimalityLoss", "coeff": {"values": [0.5]}}]
        },
    }
    path.write_text(yaml.safe_dump(sections))
    assert (
        main(
            ["sweep", str(path), "--experiments", "tms_5-2", "--quiet", "--metric", "total", "--out_dir", "o"]
        )
        == 0
    )
    config = RunFolder.open(world.path / "o" / "trial_0000").config
    assert (config["seed"], config["importance_minimality_coeff"]) == (3, 0.5)
    assert "tms_5-2" in capsys.readouterr().out


@pytest.mark.parametrize("recipe", ["tms_sweep_config", "resid_mlp_sweep_config"])
def test_the_packaged_sweeps_are_sound(world, recipe):
    from microtome.cli.recipes import find_config

    shop = workshop(world, find_config(recipe))
    sound, unsound = shop.sorted_out(trials_of(shop))
    assert not unsound and {trial.parameters["seed"] for trial in sound} == set(range(5))
    assert len(shop.groups(sound, 1)) == 1  # one batched program


@pytest.mark.parametrize(
    ("program", "notes"),
    [("microtome magnitude", []), ("magnitude_sweep", ["magnitude_sweep: runs as `microtome magnitude`"])],
)
def test_only_another_programs_name_is_told(world, program, notes):
    told = []
    file = world.file(program=program, parameters={"n_steps": {"values": [5, 7]}})
    make_plan(world.settings(file), OurPrograms(), told.append)
    assert told == notes


def test_every_swept_command_gets_a_folder_of_its_own(world):
    magnitude = world.file(program="magnitude_sweep", parameters={"n_steps": {"values": [5, 7]}})
    shop = workshop(world, magnitude)
    words = shop.command(trials_of(shop)[1])
    assert words[2:5] == ["-m", "microtome", "magnitude"]
    assert words[-2:] == ["--output_dir", str(shop.folder / "trial_0001")]
    with pytest.raises(MicrotomeError, match="every trial gets a folder of its own"):
        workshop(world, world.file(program="decompose", command=["${program}", "tms_5-2", "--out_dir=x"]))


def test_shells_complete_a_sweep(world):
    from microtome.cli.completion import command_flags

    assert {"tms_sweep_config", "--retry_failed", "-j"} <= set(command_flags()["sweep"])
    assert "tms_sweep_config" not in command_flags()["decompose"]
