"""The documented files of a run and its name."""

from collections.abc import Mapping

from torch import Tensor

from microtome.core.runs import RunFolder
from microtome.decomposition.jobs import Job


def run_name(job: Job) -> str:
    """``decompose-<method>-<target>``, without the time."""
    spec = job.target.spec()
    kind = str(spec["kind"])
    if kind == "tms":
        hidden = f"-id{spec['n_hidden_layers']}" if spec["n_hidden_layers"] else ""
        kind = f"tms_{spec['n_features']}-{spec['n_hidden']}{hidden}"
    elif kind == "resid_mlp":
        kind = f"resid_mlp{spec['n_layers']}"
    return f"decompose-{job.config.method}-{kind}"


def save_model(run: RunFolder, job: Job, parameters: Mapping[str, Tensor], step: int) -> None:
    """The documented model file of a step: components, and what of the target is not decomposed."""
    decomposed = tuple(f"{site}.weight" for site in job.target.sites())
    kept = {n: t for n, t in job.target.state_dict().items() if not n.endswith(decomposed)}
    name = "spd_model" if job.config.method == "apd" else "model"
    state = {**kept, **{n: t.detach() for n, t in parameters.items()}}
    # The original APD code's layout: A itself.
    state = {n.removesuffix("_T"): t.mT if n.endswith(".A_T") else t for n, t in state.items()}
    run.save_state_dict(f"{name}_{step}.pth", state)


def save_start(run: RunFolder, job: Job) -> None:
    """What is known before the first step: ``final_config.yaml``, and the target under its old names."""
    run.save_yaml("final_config.yaml", job.config.as_dict())
    kind = {"tms": "tms", "resid_mlp": "resid_mlp", "mlp": "digits"}.get(str(job.target.spec()["kind"]))
    if kind is None or not job.train_config:
        return
    run.save_state_dict(f"{kind}.pth", job.target.state_dict())
    run.save_yaml(f"{kind}_train_config.yaml", job.train_config)
