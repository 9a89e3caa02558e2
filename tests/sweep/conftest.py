"""A sweep of a small fake program, in a temporary working folder."""

import json
import textwrap

import pytest
import yaml

from microtome.cli.programs import OurPrograms
from microtome.sweep.engines import ProcessEngine
from microtome.sweep.plan import SweepSettings
from microtome.sweep.run import new_start, run_sweep
from microtome.sweep.trial import Outcome

FAKE = """
import json, os, pathlib, sys, time
values = dict(word.lstrip("-").split("=") for word in sys.argv[1:])
home = pathlib.Path(os.environ["MICROTOME_TRIAL_DIR"])
with open(os.environ["STARTED"], "a") as file:
    file.write(home.name + "\\n")
x = float(values["x"])
if x == 3:
    print("some words"); sys.exit("x=3 cannot be")
with (home / "metrics.jsonl").open("w") as file:
    for step in range(int(values.get("steps", 1))):
        file.write(json.dumps({"step": step, "loss": [x + 1, x - 1]}) + "\\n"); file.flush()
        time.sleep(float(values.get("nap", 0)))
(home / "summary.json").write_text(json.dumps({"loss": x * x, "l0": {"a": [1.0, 2.0, None]}}))
"""


class World:
    """The working folder, and what was started in it."""

    def __init__(self, path):
        self.path = path
        (path / "fake.py").write_text(textwrap.dedent(FAKE))
        self.notes = []

    def file(self, **changes):
        mapping = {
            "program": "fake.py",
            "method": "grid",
            "metric": {"name": "loss"},
            "parameters": {"x": {"values": [2, 1, 4]}},
        } | changes
        path = self.path / "sweep.yaml"
        path.write_text(yaml.safe_dump(mapping, sort_keys=False))
        return path

    def settings(self, source, **changes):
        given = {"source": str(source), "sweep": yaml.safe_load(source.read_text())}
        return SweepSettings(**given, runs_root=self.path / "runs", working=self.path, **changes)

    def sweep(self, engine=None, out_dir=None, settings=None, retry_failed=False, **changes):
        settings = settings or self.settings(self.file(**changes))
        start = new_start(settings, out_dir, OurPrograms(), self.notes.append)
        made = engine or (lambda: ProcessEngine(2))
        return run_sweep(
            start, OurPrograms(), made, show=False, note=self.notes.append, retry_failed=retry_failed
        )

    @property
    def started(self):
        path = self.path / "started.txt"
        return path.read_text().split() if path.exists() else []


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setenv("STARTED", str(tmp_path / "started.txt"))
    monkeypatch.chdir(tmp_path)
    return World(tmp_path)


@pytest.fixture
def pretend():
    """An engine that runs nothing: the given function of a trial's parameters is its loss."""

    def build(score, slots=1, seen=None):
        def run(job):
            from pathlib import Path

            parameters = json.loads(Path(job.stop).with_suffix(".json").read_text())
            if seen is not None:
                seen.append(job)
            summary = score(parameters)
            Path(job.environment["MICROTOME_TRIAL_DIR"], "summary.json").write_text(json.dumps(summary))
            return Outcome(job.trials, 0, 1.0)

        return lambda: ProcessEngine(slots, run)

    return build


@pytest.fixture
def in_process(monkeypatch):
    """Our commands run in this process, one at a time; the jobs that were started."""
    import contextlib
    import os
    from pathlib import Path

    from microtome.cli.main import main
    from microtome.sweep import batch

    seen = []

    def run(job):
        seen.append(job)
        words = job.command[[*job.command].index("-m") + 1 :]
        with contextlib.ExitStack() as stack, Path(job.log).open("a") as log:
            stack.enter_context(contextlib.redirect_stdout(log))
            stack.enter_context(contextlib.redirect_stderr(log))
            os.environ.update(job.environment)
            code = main(words[1:]) if words[0] == "microtome" else batch.main(words[1])
            for name in job.environment:
                del os.environ[name]
        return Outcome(
            job.trials, code, 1.0, "", "" if code == 0 else Path(job.log).read_text().splitlines()[-1]
        )

    monkeypatch.setattr("microtome.cli.sweep._engine", lambda options: ProcessEngine(1, run))
    return seen
