"""What each of the processes does that ``test_several_processes.py`` starts with torchrun."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import yaml

from microtome.core.distributed import launched_processes
from microtome.core.errors import MicrotomeError
from microtome.decomposition.config import config_from_mapping
from microtome.decomposition.decompose import resume, run_config
from microtome.decomposition.loop import Loop


def refused(settings: dict[str, Any], out: Path) -> None:
    """Note the line that this process ends with, if it tells one."""
    try:
        run_config(config_from_mapping(settings), out_dir=out, progress=False)
    except MicrotomeError as error:
        with (out.parent / f"{out.name}.txt").open("a") as file:
            file.write(f"{error}\n")
    except SystemExit:
        pass  # another process tells it


def dies_at(step: int) -> None:
    """This process is gone, without a word, before a step."""
    one_step = Loop._one_step

    def killed(self: Loop) -> Any:
        if self.step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return one_step(self)

    Loop._one_step = killed  # type: ignore[method-assign]


def main(folder: Path, what: str) -> None:
    torch.set_num_threads(1)
    toy, language = (yaml.safe_load((folder / f"{name}.yaml").read_text()) for name in ("toy", "language"))
    if what == "resume":
        resume(folder / "killed", progress=False)
        return
    for name, settings in (("toy", toy), ("language", language)):
        run_config(config_from_mapping(settings), out_dir=folder / name, progress=False)
    rank = launched_processes().rank
    refused({**toy, "lr": 1e-3 * (1 + rank)}, folder / "other_configuration")
    refused({**toy, "batch_size": 62}, folder / "odd_batch")
    if rank == 1:
        dies_at(5)
    refused(language, folder / "killed")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
