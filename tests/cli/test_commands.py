"""The command line as typed: exit codes, one-line errors, quick help."""

import errno
import os
import signal
import subprocess
import sys
import time
import types

import pytest

from microtome import __version__
from microtome.cli import main as main_module
from microtome.cli.aliases import ALIASES, resolve
from microtome.cli.main import COMMANDS, find_command, main
from microtome.cli.recipes import find_config
from microtome.core.config import Config
from microtome.core.errors import MicrotomeError
from microtome.core.runs import RunFolder


@pytest.fixture
def one_line(capsys):
    """Run a command that must fail with code 2 and one line, and give the line."""

    def run(*argv):
        assert main(argv) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("microtome: ")
        assert captured.err.count("\n") == 1
        return captured.err

    return run


@pytest.fixture
def stub(monkeypatch):
    """A command ``stub`` that does what the test says."""

    def install(action):
        module = types.ModuleType("stub_command")
        module.main = action  # pyright: ignore
        monkeypatch.setitem(sys.modules, "stub_command", module)
        monkeypatch.setitem(main_module.COMMANDS, "stub", ("stub_command", "a stub"))

    return install


def raising(error):
    def action(_):
        raise error

    return action


# -- the command itself


def test_help_names_every_command_and_imports_nothing_heavy():
    script = (
        "import sys; from microtome.cli.main import main; code = main(['--help'])\n"
        "heavy = {'torch', 'matplotlib', 'pydantic', 'numpy', 'yaml', 'rich', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


@pytest.mark.parametrize(
    "command", ["train tms", "train digits", "decompose", "magnitude", "interpret", "runs"]
)
def test_a_commands_help_imports_no_torch(command):
    script = (
        "import sys; from microtome.cli.main import main\n"
        f"code = main({[*command.split(), '--help']!r})\n"
        "heavy = {'torch', 'matplotlib', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: microtome " + command.split()[0])


def test_importing_the_package_imports_no_torch():
    script = (
        "import sys, microtome; assert 'torch' not in sys.modules; microtome.MicrotomeError; dir(microtome)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)


def test_public_names():
    import microtome

    assert microtome.MicrotomeError is MicrotomeError
    assert microtome.RunFolder is RunFolder
    assert set(microtome.__all__) <= set(dir(microtome))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = microtome.nothing


@pytest.mark.parametrize("words", [[], ["-h"], ["--help"], ["help"]])
def test_listing(capsys, words):
    assert main(words) == 0
    assert "usage: microtome COMMAND" in capsys.readouterr().out


@pytest.mark.parametrize("word", ["--version", "version"])
def test_version(capsys, word):
    assert main([word]) == 0
    assert capsys.readouterr().out == f"microtome {__version__}\n"


def test_python_m_microtome():
    done = subprocess.run(
        [sys.executable, "-m", "microtome", "nonsense"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("microtome: unknown command nonsense")


def test_unknown_commands_and_flags_before_a_command(one_line):
    assert "did you mean decompose?" in one_line("decompse")
    assert "did you mean tms_decomposition?" in one_line("tms_decompositio")
    assert "commands: demo, train" in one_line("xyzzy")
    assert "flags follow a command" in one_line("--steps", "3")


def test_commands_by_old_names():
    assert resolve("spd/experiments/tms/train_tms.py") == ("train", "tms")
    assert resolve("spd\\experiments\\tms\\train_tms.py") == ("train", "tms")
    assert resolve("something_else.py") is None
    assert find_command(["train-resid-mlp", "--steps", "3"]) == ("train", ["resid-mlp", "--steps", "3"])
    assert find_command(["spd/experiments/tms/tms_decomposition.py", "a.yaml"]) == ("decompose", ["a.yaml"])
    assert find_command(["magnitude_sweep"]) == ("magnitude", [])
    assert all(words[0] in COMMANDS for words in ALIASES.values())


# -- how commands end


def test_a_command_that_ends_well(stub):
    stub(lambda words: None if words == ["a", "--b"] else 1)
    assert main(["stub", "a", "--b"]) == 0


def test_an_error_of_the_user_is_one_line(stub, one_line):
    stub(raising(MicrotomeError("lr=-1: must\nbe positive")))
    assert one_line("stub") == "microtome: lr=-1: must be positive\n"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "x.npz"), "the disk is full (x.npz)"),
        (MemoryError(), "out of memory; lower batch_size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory"),
    ],
)
def test_what_the_machine_lacks_is_one_line(stub, one_line, error, text):
    stub(raising(error))
    assert text in one_line("stub")


def test_a_configuration_built_by_hand_is_one_line(stub, one_line):
    class Settings(Config):
        steps: int

    stub(lambda _: Settings(steps="x"))  # pyright: ignore
    assert "steps='x': must be a valid integer" in one_line("stub")


def test_our_own_mistake_shows_where(stub, capsys):
    stub(raising(KeyError("inside")))
    assert main(["stub"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_debug_shows_where(stub, capsys, monkeypatch):
    stub(raising(MicrotomeError("a: b")))
    for argv, environment in ((["stub", "--debug"], "0"), (["stub"], "1")):
        monkeypatch.setenv("MICROTOME_DEBUG", environment)
        assert main(argv) == 2
        text = capsys.readouterr().err
        assert "Traceback" in text
        assert text.endswith("microtome: a: b\n")


def test_interrupts(stub, capsys):
    stub(raising(KeyboardInterrupt("Saved; carry on with --resume x")))
    assert main(["stub"]) == 130
    assert capsys.readouterr().err == "\nSaved; carry on with --resume x\n"
    stub(raising(KeyboardInterrupt()))
    assert main(["stub"]) == 130
    assert capsys.readouterr().err == "\nInterrupted.\n"


def test_a_reader_that_leaves_is_no_error():
    script = (
        "import sys; from microtome.cli import main as m; import types\n"
        "module = types.ModuleType('long')\n"
        "module.main = lambda words: [print('x' * 99) for _ in range(9999)] and 0\n"
        "sys.modules['long'] = module; m.COMMANDS['long'] = ('long', ''); sys.exit(m.main(['long']))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_ctrl_c_during_a_real_training_leaves_no_folder(tmp_path):
    words = [
        "train",
        "tms",
        "--steps",
        "100000000",
        "--print-freq",
        "1",
        "--runs_root",
        str(tmp_path / "runs"),
    ]
    with subprocess.Popen(
        [sys.executable, "-m", "microtome", *words], stderr=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:
        while not list(tmp_path.glob("runs/*/metrics.jsonl")):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        text = process.stderr.read()
        assert process.wait() == 130
    assert "Traceback" not in text
    assert list(tmp_path.glob("runs/*")) == []


# -- train


@pytest.fixture
def trainings(monkeypatch, tmp_path):
    """What was handed to the training function, which trains nothing."""
    module = types.ModuleType("microtome.training.toy")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    seen = {}

    def train(config, **more):
        seen.update(more, config=config)
        return RunFolder(tmp_path / "made")

    module.train_tms = train  # pyright: ignore
    return seen


def test_train_hands_over_the_file_with_flags_on_top(tmp_path, trainings, capsys):
    file = tmp_path / "a.yaml"
    file.write_text("steps: 7\nlr: 1e-4\ntms-model-config: {n_features: 6, n_hidden: 3}\n")
    words = ["train", "tms", str(file), "--steps=9", "--tms_model_config.n-hidden", "2", "--quiet"]
    assert main([*words, "--runs-root", str(tmp_path), "--no_tms_model_config.tied_weights"]) == 0
    config = trainings["config"]
    model = config.tms_model_config
    assert (config.steps, config.lr, model.n_features, model.n_hidden) == (9, 1e-4, 6, 2)
    assert model.tied_weights is False
    assert (trainings["runs_root"], trainings["out_dir"]) == (tmp_path, None)
    assert trainings["show_progress"] is False
    assert trainings["command"][:3] == ["microtome", "train", "tms"]
    assert f"Results: {tmp_path / 'made'}" in capsys.readouterr().out


def test_a_flag_inside_a_nested_default_changes_only_that_field(trainings):
    assert main(["train_tms", "--tms_model_config.n_features", "7"]) == 0
    model = trainings["config"].tms_model_config
    assert (model.n_features, model.n_instances) == (7, 3)


def test_train_refusals(one_line, tmp_path):
    assert "did you mean tms?" in one_line("train", "tsm")
    assert "--stepz: unknown flag; did you mean --steps?" in one_line("train", "tms", "--stepz", "3")
    assert "did you mean --tms_model_config.n_features?" in one_line("train", "tms", "--n-features", "3")
    assert "steps=-1: must be greater than 0" in one_line("train", "tms", "--steps", "-1")
    assert "Missing value for argument '--steps'" in one_line("train", "tms", "--steps")
    assert "neither a file nor a recipe" in one_line("train", "tms", "none.yaml")
    (tmp_path / "a.yaml").write_text("stepz: 3")
    line = one_line("train", "tms", str(tmp_path / "a.yaml"))
    assert f"{tmp_path / 'a.yaml'}: unknown key stepz; did you mean steps?" in line
    assert "takes one CONFIG.yaml" in one_line("train", "tms", str(tmp_path / "a.yaml"), "b")
    assert "flags begin with two dashes" in one_line("train", "tms", "-steps", "3")


def test_a_folder_that_holds_a_run_is_refused(one_line, tmp_path):
    RunFolder.create(tmp_path / "run", Config(), kind="train-tms")
    line = one_line("train", "tms", "--steps", "1", "--out_dir", str(tmp_path / "run"))
    assert "already holds a run (train-tms); choose another --out_dir" in line
    assert "--resume" not in line


# -- decompose


@pytest.fixture
def decompositions(monkeypatch, tmp_path):
    module = types.ModuleType("microtome.decomposition.decompose")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    seen = []

    def run_config(config, **more):
        seen.append((config, more))
        return RunFolder(tmp_path / "made")

    def resume(path, **more):
        seen.append((path, more))
        return RunFolder(path)

    module.run_config, module.resume = run_config, resume  # pyright: ignore
    return seen


APD = "C: 5\ntopk: 0.2\nbatch_size: 8\nsteps: 3\nprint_freq: 1\nlr: 1e-2\n"


def test_the_file_tells_the_method_and_flags_win(decompositions, tmp_path):
    (tmp_path / "apd.yaml").write_text(APD)
    (tmp_path / "spd.yaml").write_text("C: 4\nsteps: 3\nimportance_minimality_coeff: 1e-2\n")
    path = ["--task_config.pretrained_model_path", "x.pth", "--task-config.task_name", "tms"]
    assert main(["decompose", str(tmp_path / "apd.yaml"), "--m", "2", *path]) == 0
    assert main(["tms_decomposition", str(tmp_path / "spd.yaml"), "--C", "6"]) == 0
    assert main(["decompose", "--method", "spd", "--steps", "5"]) == 0
    (apd, more), (spd, _), (flags_only, _) = decompositions
    assert (apd.method, apd.m, apd.lr, apd.task_config.pretrained_model_path) == ("apd", 2, 0.01, "x.pth")
    assert more["command"][:2] == ["microtome", "decompose"]
    assert (spd.method, spd.C, spd.importance_minimality_coeff) == ("spd", 6, 0.01)
    assert (flags_only.method, flags_only.steps) == ("spd", 5)


def test_decompose_refusals(one_line, decompositions, tmp_path):
    (tmp_path / "apd.yaml").write_text(APD)
    (tmp_path / "sweep.yaml").write_text("method: grid")
    config = str(tmp_path / "apd.yaml")
    assert "needs a CONFIG.yaml or a recipe" in one_line("decompose")
    assert "neither a file nor a recipe" in one_line("decompose", "no-such-thing")
    assert "sweep file" in one_line("decompose", config, str(tmp_path / "sweep.yaml"))
    assert "method='xpd'" in one_line("decompose", config, "--method", "xpd")
    assert "C=0: must be greater than 0" in one_line("decompose", config, "--C", "0")
    assert "not a flag of APD" in one_line("decompose", config, "--stochastic_recon_coeff", "1")
    assert "did you mean --topk?" in one_line("decompose", config, "--topkk", "1")
    assert decompositions == []


def test_resume(one_line, decompositions, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    RunFolder.create("runs/spd", Config(), kind="decompose-spd")
    RunFolder.create("runs/tms", Config(), kind="train-tms")
    assert main(["decompose", "--resume", "latest", "--quiet"]) == 0
    assert [str(path) for path, _ in decompositions] == [os.path.join("runs", "spd")]  # noqa: PTH118
    capsys.readouterr()
    assert "keeps its own configuration" in one_line("decompose", "--resume", "spd", "--steps", "3")
    assert "nothing to resume" in one_line("decompose", "--resume", "tms")
    assert "no such run" in one_line("decompose", "--resume", "nowhere")
    assert "Missing value for argument '--resume'" in one_line("decompose", "--resume")
    RunFolder("runs/spd").finish({})
    assert main(["decompose", "--resume=spd"]) == 0
    assert "finished already" in capsys.readouterr().out
    assert len(decompositions) == 1


# -- recipes


def test_recipes_by_name_and_by_old_path(tmp_path):
    for name in ("tms_5-2", "tms_topk_config"):
        (tmp_path / f"{name}.yaml").write_text("steps: 1")
    assert find_config("tms_5-2", tmp_path).stem == "tms_5-2"
    assert find_config("tms-5-2.yaml", tmp_path).stem == "tms_5-2"
    assert find_config("spd/experiments/tms/tms_topk_config.yaml", tmp_path).stem == "tms_topk_config"
    with pytest.raises(MicrotomeError, match=r"did you mean tms_5-2\? \(recipes: tms_5-2, tms_topk_config\)"):
        find_config("tms_5-3", tmp_path)


# -- looking around


def test_interpret(one_line, tmp_path, capsys):
    run = RunFolder.create(tmp_path / "spd", Config(), kind="decompose-spd")
    run.log(1, {"total": 0.5})
    RunFolder.create(tmp_path / "tms", Config(), kind="train-tms")
    words = ["interpret", "latest", "--runs-root", str(tmp_path), "--redraw", "--only", "loss_curves"]
    assert main(words) == 0
    assert str(tmp_path / "spd" / "plots" / "loss_curves.png") in capsys.readouterr().out
    assert "holds no checkpoint" in one_line("interpret", str(tmp_path / "spd"))
    assert "not a decomposition" in one_line("interpret", str(tmp_path / "tms"))
    assert "takes a run folder" in one_line("interpret")


def test_runs(capsys, tmp_path):
    assert main(["runs", str(tmp_path)]) == 0
    assert "No runs under" in capsys.readouterr().out
    first = RunFolder.create(tmp_path / "first", Config(), kind="train-tms")
    first.finish({"loss": [0.25, 0.75], "found": [True], "name": "x", "accuracy": 0.5})
    RunFolder.create(tmp_path / "second", Config(), kind="decompose-spd")
    assert main(["runs", "--runs_root", str(tmp_path)]) == 0
    header, second, one = capsys.readouterr().out.splitlines()
    assert header.split() == ["run", "kind", "state", "age", "numbers"]
    assert second.split() == ["second", "decompose-spd", "unfinished", "0m"]
    assert one.split() == ["first", "train-tms", "finished", "0m", "loss=0.5", "accuracy=0.5"]
    assert main(["runs", str(tmp_path), "--kind", "train"]) == 0
    assert "second" not in capsys.readouterr().out


def test_doctor(capsys):
    assert main(["doctor"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == ["microtome", "python", "torch", "CUDA", "threads", "C", "wandb", "tensorboard", "disk"]


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion(capsys, shell):
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert "--tms_model_config.n_features" in text
    assert "--importance_minimality_coeff" in text


def test_completion_completes_in_a_real_bash(capsys, tmp_path):
    main(["completion", "bash"])
    script = capsys.readouterr().out + (
        "COMP_WORDS=(microtome dec); COMP_CWORD=1; _microtome; echo ${COMPREPLY[@]}\n"
        "COMP_WORDS=(microtome train tms --batc); COMP_CWORD=3; _microtome; echo ${COMPREPLY[@]}\n"
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines() == ["decompose", "--batch_size"]


def test_completion_of_another_shell(one_line):
    assert "unknown shell; did you mean zsh?" in one_line("completion", "zhs")


def test_paths_in_a_file_are_looked_for_beside_it_too(decompositions, tmp_path):
    (tmp_path / "spd.yaml").write_text("pretrained_model_path: tms.pth")
    assert main(["decompose", str(tmp_path / "spd.yaml")]) == 0
    assert decompositions[0][1]["relative_to"] == tmp_path


def test_help_of_the_method_that_the_file_is_for(capsys, tmp_path):
    (tmp_path / "apd.yaml").write_text(APD)
    assert main(["decompose", str(tmp_path / "apd.yaml"), "--help"]) == 0
    assert "--task_config.init_scale" in capsys.readouterr().out
    assert main(["decompose", "--method", "spd", "--help"]) == 0
    assert "--importance_minimality_coeff" in capsys.readouterr().out


# -- the demonstration's folder, and what it tells to try next


def test_the_demonstration_does_not_go_into_a_file(one_line, tmp_path):
    (tmp_path / "page").write_text("mine")
    assert "is a file; choose another --out_dir" in one_line("demo", "--out_dir", str(tmp_path / "page"))
    assert "cannot be written" in one_line("demo", "--out_dir", str(tmp_path / "page" / "inside"))
    assert (tmp_path / "page").read_text() == "mine"


def test_the_next_commands_fit_the_targets_that_the_demonstration_keeps(tmp_path):
    from microtome.cli.flags import build, parse
    from microtome.core.config import read_yaml
    from microtome.decomposition.spd_config import SPDConfig
    from microtome.demo import next_commands, recipe

    kept = recipe("demo_train_tms")["keep"]
    (command,) = [line for line in next_commands(tmp_path) if " decompose " in line]
    _, _, name, *words = command.split()
    flags = parse(words, "decompose", "", Config, SPDConfig).values
    config = build(SPDConfig, read_yaml(find_config(name)), flags, name)
    assert all(k < kept for k in config.instances or ())


def test_no_runs_of_a_kind_is_not_no_runs(capsys, tmp_path):
    RunFolder.create(tmp_path / "run", Config(), kind="train-tms")
    assert main(["runs", str(tmp_path), "--kind", "decompose"]) == 0
    assert "No runs of kind decompose" in capsys.readouterr().out


def test_each_command_offers_its_own_recipes(capsys, one_line):
    main(["completion", "bash"])
    script = capsys.readouterr().out
    train, decompose = (
        next(line for line in script.splitlines() if line.strip().startswith(f"{name})"))
        for name in ("train", "decompose")
    )
    assert " train_tms_5-2 " in train and " tms_5-2 " not in train
    assert " tms_5-2 " in decompose and " train_tms_5-2 " not in decompose
    assert "train_" not in one_line("decompose", "nothing-like-it").partition("recipes:")[2]
    assert " tms_5-2," not in one_line("train", "tms", "nothing-like-it").partition("recipes:")[2]


@pytest.mark.parametrize(
    "command", [["train", "tms"], ["decompose"], ["decompose", "--method", "apd"], ["train", "digits"]]
)
def test_metrics_go_where_the_same_flag_says_in_every_command(command, capsys):
    assert main([*command, "--help"]) == 0
    assert "--tracker" in capsys.readouterr().out
