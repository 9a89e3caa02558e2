"""Several processes on one decomposition: whether they may, whether they agree, and what to say at a loss."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

import microtome
from microtome.core.distributed import Processes, refuse_differences
from microtome.core.environment import version_of
from microtome.core.errors import bad_value
from microtome.core.plain import plain_value
from microtome.core.runs import RunFolder
from microtome.decomposition.apd_config import APDConfig
from microtome.decomposition.jobs import Job
from microtome.decomposition.loop import resume_words


@dataclass
class ResumeHint:
    """What to do after a process was lost; known once the run has begun."""

    run: RunFolder | None = None
    group: Processes = field(default_factory=Processes)

    def __call__(self) -> str:
        """Words for the end of the line; empty before there is anything to carry on."""
        if self.run is None or not self.run.checkpoint_steps():
            return ""
        return f"carry on with `{resume_words(self.run, self.group)}`"


def check_sharing(job: Job, group: Processes) -> None:
    """Raise ``MicrotomeError``, in every process, where the job cannot be shared or was not started alike."""
    if group.size == 1:
        return
    config = job.config
    if isinstance(config, APDConfig):
        raise bad_value("method", "apd", "trains in one process only", "start it without torchrun")
    parts = group.size * config.gradient_accumulation_steps
    if config.batch_size % parts:
        by = f"{group.size} processes"
        if config.gradient_accumulation_steps > 1:
            by += f" times gradient_accumulation_steps={config.gradient_accumulation_steps}"
        raise bad_value(
            "batch_size", config.batch_size, f"cannot be shared by {by}", f"give a multiple of {parts}"
        )
    facts = {name: json.dumps(plain_value(value)) for name, value in config.as_dict().items()}
    facts |= {
        "code": code_fingerprint(),
        "torch": str(version_of("torch")),
        "device": next(job.target.parameters()).device.type,
        "target": state_fingerprint(job.target.state_dict()),
        "data": json.dumps(plain_value(job.data.spec()), sort_keys=True),
    }
    refuse_differences(facts, group, "start every process with the same command, files and versions")


@cache
def code_fingerprint() -> str:
    """SHA-256 of the package's Python files, shortened."""
    root = Path(microtome.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def state_fingerprint(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of named tensors, shortened."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
