"""A run that is killed again and again at random moments until it is done; ``test_killed.py`` starts it."""

import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import torch

from microtome.core.runs import RunFolder
from microtome.decomposition.config import config_from_mapping
from microtome.decomposition.decompose import resume, run_config


def work(config_file: Path, out: Path) -> None:
    """One life: begin, or go on."""
    if out.exists() and (out / "environment.json").is_file() and RunFolder(out).checkpoint_steps():
        resume(out, progress=False)
        return
    shutil.rmtree(out, ignore_errors=True)
    import yaml

    run_config(config_from_mapping(yaml.safe_load(config_file.read_text())), out_dir=out, progress=False)


def main(config_file: Path, out: Path, seed: int) -> None:
    """Lives of random length, longer and longer, each ended by SIGKILL; prints how many were."""
    torch.set_num_threads(1)
    draws, deaths = random.Random(seed), 0
    work(config_file, out.with_name("first"))  # what is imported here, no life has to import
    began = time.monotonic()
    work(config_file, out.with_name("undisturbed"))
    took = time.monotonic() - began
    while not (out / "summary.json").is_file():
        child = os.fork()
        if child == 0:
            code = 1
            try:
                work(config_file, out)
                code = 0
            finally:
                os._exit(code)
        time.sleep(draws.uniform(0.0, 0.5 * took * (1 + 0.2 * deaths)))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
        else:
            deaths += 1
    print(deaths)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
