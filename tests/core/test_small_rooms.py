"""Seeds, schedules, device, progress, tracking, the .env file."""

import io
import math
import os
import sys
import types

import pytest
import torch

from microtome.core import progress as progress_module
from microtome.core.config import Config
from microtome.core.device import resolve_device, set_threads, tune_allocator
from microtome.core.environment_file import read_environment_file
from microtome.core.errors import MicrotomeError
from microtome.core.progress import duration, progress
from microtome.core.runs import RunFolder
from microtome.core.schedules import learning_rate_factor
from microtome.core.seeds import generator, stream_seed
from microtome.core.tracking import flatten, open_tracker


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path / "run", Config(), kind="x")


# -- seeds


def test_streams_are_repeatable_and_independent():
    def draw(seed, stream):
        return torch.rand(100, generator=generator(seed, stream=stream)).tolist()

    assert draw(0, "data") == draw(0, "data")
    drawn = [draw(seed, stream) for seed in (0, 1) for stream in ("", "data", "masks")]
    assert len({tuple(numbers) for numbers in drawn}) == 6
    assert stream_seed(0, "data") == 736872305540241488


# -- schedules: values worked by hand


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        ("constant", 99, 1.0),
        ("linear", 0, 1.0),
        ("linear", 25, 0.75),
        ("linear", 100, 0.0),
        ("cosine", 0, 1.0),
        ("cosine", 33, math.cos(math.pi / 6)),
        ("cosine", 99, 0.0),
        ("cosine_half", 0, 1.0),
        ("cosine_half", 33, 0.75),
        ("cosine_half", 99, 0.0),
        ("exponential", 20, 0.25),
    ],
)
def test_factors(schedule, step, expected):
    factor = learning_rate_factor(schedule, step, 100, halflife=10)
    assert factor == pytest.approx(expected, abs=1e-12)


def test_warm_up_then_the_schedule_over_what_is_left():
    factors = [learning_rate_factor("linear", step, 10, warmup_pct=0.25) for step in range(10)]
    assert factors == pytest.approx([0, 0.5, *(1 - step / 8 for step in range(8))])


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "cosine_half", "exponential"])
def test_factors_stay_between_0_and_1_past_the_end(schedule):
    factors = [learning_rate_factor(schedule, step, 7, 0.2, halflife=3) for step in range(9)]
    assert all(0 <= factor <= 1 for factor in factors)
    assert learning_rate_factor(schedule, 0, 1, halflife=3) == 1.0


def test_schedules_that_cannot_be():
    with pytest.raises(MicrotomeError, match=r"lr_schedule='cosin'.*choose one of"):
        learning_rate_factor("cosin", 1, 10)
    with pytest.raises(MicrotomeError, match="lr_exponential_halflife=None"):
        learning_rate_factor("exponential", 1, 10)


# -- device


def test_devices():
    assert resolve_device("cpu").type == "cpu"
    assert resolve_device("auto").type in ("cpu", "cuda")
    with pytest.raises(MicrotomeError, match="device='gpu'"):
        resolve_device("gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine with CUDA has what is asked for")
def test_a_missing_device_is_a_notice_and_the_cpu():
    notes: list[str] = []
    assert resolve_device("cuda:1", note=notes.append).type == "cpu"
    assert len(notes) == 1
    assert "running on the CPU" in notes[0]


def test_threads(monkeypatch):
    before = torch.get_num_threads()
    try:
        assert set_threads() == torch.get_num_threads() == 1
        assert set_threads(2) == torch.get_num_threads() == 2
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        assert set_threads(small=False) == 3
        with pytest.raises(MicrotomeError, match="threads=0"):
            set_threads(0)
    finally:
        torch.set_num_threads(before)


def test_the_allocator_keeps_memory_only_on_glibc(monkeypatch):
    monkeypatch.setattr("platform.libc_ver", lambda: ("musl", "1"))
    assert tune_allocator() is False


# -- progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_piped_progress_is_plain_lines_now_and_then_and_at_the_end(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: clock[0])
    out = io.StringIO()
    with progress("decompose", total=100, stream=out) as bar:
        for step in range(101):
            clock[0] = step * 0.1
            bar.update(step, {"loss": 0.5})
    lines = out.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("decompose  50/100 (50%)")
    assert "10 steps/s  5s left  loss 0.5" in lines[0]
    assert lines[1] == "decompose  100/100 (100%)  10 steps/s  took 10s  loss 0.5"
    assert "\x1b" not in out.getvalue()


def test_resumed_progress_counts_only_its_own_steps(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: clock[0])
    bar = progress("x", total=1000, start=900, stream=io.StringIO())
    clock[0] = 10.0
    bar.update(950)
    assert "5 steps/s  10s left" in bar.line()


def test_progress_can_be_silent_and_live():
    out = io.StringIO()
    with progress("x", total=2, enabled=False, stream=out) as bar:
        bar.update(2)
    assert out.getvalue() == ""
    screen = Terminal()
    with progress("x", total=2, stream=screen) as bar:
        bar.update(2, {"loss": 1.25})
    assert "2/2 (100%)" in screen.getvalue()
    assert "loss 1.25" in screen.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59.4, "59s"), (185, "3m 05s"), (7800, "2h 10m"), (-1, "0s")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


# -- tracking


def test_lists_are_one_number_an_instance():
    assert flatten({"a": [1, 2.5], "b": torch.tensor(3.0), "c": 4, "d": "text"}) == {
        "a/0": 1.0,
        "a/1": 2.5,
        "b": 3.0,
        "c": 4.0,
    }


def test_no_tracker_and_unknown_ones(run, tmp_path):
    tracker = open_tracker("none", run)
    tracker.log(0, {"a": 1.0})
    tracker.image(0, "a", tmp_path / "a.png")
    tracker.finish()
    with pytest.raises(MicrotomeError, match="tracker='wandbb'"):
        open_tracker("wandbb", run)


@pytest.mark.parametrize(("kind", "module"), [("wandb", "wandb"), ("tensorboard", "torch.utils.tensorboard")])
def test_a_missing_extra_names_the_pip_command(run, monkeypatch, kind, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MicrotomeError, match=rf"pip install 'microtome\[{kind}\]'"):
        open_tracker(kind, run)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_writes_events(run):
    pytest.importorskip("tensorboard")
    tracker = open_tracker("tensorboard", run)
    tracker.log(0, {"loss": [1.0, 2.0]})
    tracker.finish()
    (events,) = (run.path / "tensorboard").iterdir()
    assert b"loss/1" in events.read_bytes()


def fake_wandb(api_key):
    module = types.ModuleType("wandb")
    logged = []
    handle = types.SimpleNamespace(
        log=lambda values, step: logged.append((step, values)), finish=lambda: logged.append("finished")
    )

    def init(**settings):
        logged.append(settings)
        return handle

    module.init, module.logged = init, logged  # pyright: ignore
    module.Api = lambda: types.SimpleNamespace(api_key=api_key)  # pyright: ignore
    return module


def test_wandb_needs_a_login_unless_offline(run, monkeypatch):
    module = fake_wandb(api_key=None)
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(MicrotomeError, match="WANDB_MODE=offline"):
        open_tracker("wandb", run)
    assert module.logged == []
    monkeypatch.setenv("WANDB_MODE", "offline")
    tracker = open_tracker("wandb", run, "project", None, {"lr": 0.1})
    tracker.log(3, {"loss": [1.0]})
    tracker.finish()
    settings, *rest = module.logged
    assert settings["project"] == "project"
    assert settings["name"] == run.path.name
    assert rest == [(3, {"loss/0": 1.0}), "finished"]


# -- .env


def test_the_env_file_gives_wandb_names_and_overrides_nothing(tmp_path, monkeypatch):
    file = tmp_path / ".env"
    file.write_text(
        "# comment\nWANDB_API_KEY=abc # mine\nexport WANDB_ENTITY = 'a b'\nWANDB_MODE=online\nPATH=/evil\n"
        'WANDB_PROJECT="p # q"\nWANDB_EMPTY=\nnonsense\n'
    )
    for name in ("WANDB_API_KEY", "WANDB_ENTITY", "WANDB_PROJECT", "WANDB_EMPTY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    path = os.environ["PATH"]
    assert read_environment_file(file) == ["WANDB_API_KEY", "WANDB_ENTITY", "WANDB_PROJECT"]
    assert os.environ["WANDB_API_KEY"] == "abc"
    assert os.environ["WANDB_ENTITY"] == "a b"
    assert os.environ["WANDB_PROJECT"] == "p # q"
    assert (os.environ["WANDB_MODE"], os.environ["PATH"]) == ("offline", path)
    assert read_environment_file(tmp_path / "none") == []


def test_thousands_of_threads_are_not_started():
    before = torch.get_num_threads()
    try:
        assert set_threads(100_000) == torch.get_num_threads() <= max(os.cpu_count() or 1, 64)
    finally:
        torch.set_num_threads(before)


def test_a_dumb_terminal_gets_plain_lines(monkeypatch):
    class Screen(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "dumb")
    stream = Screen()
    with progress("train", 2, stream=stream) as bar:
        bar.update(2, {"loss": 0.5})
    assert stream.getvalue().startswith("train  2/2 (100%)") and "\x1b" not in stream.getvalue()
