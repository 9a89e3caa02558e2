"""Two processes never carry on the same run."""

import multiprocessing
import sys

import pytest

from microtome.core.config import Config
from microtome.core.errors import MicrotomeError
from microtome.core.run_lock import only_writer
from microtome.core.runs import RunFolder


def hold(path, held, enough):
    with only_writer(path):
        held.set()
        enough.wait(60)


@pytest.mark.skipif(sys.platform == "win32", reason="no such locks there")
def test_a_second_process_is_refused_until_the_first_ends(tmp_path):
    run = RunFolder.create(tmp_path / "run", Config(), kind="x")
    context = multiprocessing.get_context("spawn")
    held, enough = context.Event(), context.Event()
    first = context.Process(target=hold, args=(run.path, held, enough))
    first.start()
    assert held.wait(60)
    with pytest.raises(MicrotomeError, match="another process is working on this run"), only_writer(run.path):
        pass
    first.kill()  # the lock does not outlive its process
    first.join()
    with only_writer(run.path):
        pass


def test_a_folder_without_the_file_is_not_in_the_way(tmp_path):
    with only_writer(tmp_path):
        pass
