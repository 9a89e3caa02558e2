"""Training runs of the toy models: the folders that ``microtome train tms | resid-mlp`` writes."""

from collections.abc import Sequence
from pathlib import Path

from microtome.core.runs import RunFolder
from microtome.targets.tms import TMS
from microtome.training import plots
from microtome.training.config import ResidMLPTrainConfig, TMSTrainConfig
from microtome.training.fit_toy import fit_pentagons, fit_resid_mlp, fit_tms, resid_mlp_labels
from microtome.training.represented import feature_norms, found_polygon, interference, represented_features
from microtome.training.run import TrainingRun, training_run

__all__ = ["fit_pentagons", "fit_resid_mlp", "fit_tms", "train_resid_mlp", "train_tms"]


def train_tms(
    config: TMSTrainConfig,
    *,
    runs_root: str | Path = Path("runs"),
    out_dir: str | Path | None = None,
    command: Sequence[str] = (),
    show_progress: bool = True,
) -> RunFolder:
    """Train Toy Models of Superposition and write the run.

    At the run's root: ``tms.pth``, ``tms_train_config.yaml``, ``cosine_similarity_distribution.png`` and, for
    two hidden dimensions, ``polygon.png``. ``summary.json``: each instance's final loss, how many features
    it represents, and whether it found the polygon. Raises Diverged, and leaves nothing behind then.
    """
    model = config.tms_model_config
    with training_run(
        config, "tms", tms_run_name(config), config.steps, runs_root, out_dir, command, show_progress
    ) as run:
        target, losses = fit_tms(config, run.report)
        folder = run.folder
        folder.save_state_dict("tms.pth", target.state_dict())
        saved = model.model_copy(update={"n_instances": target.n_instances})
        config.model_copy(update={"tms_model_config": saved}).to_file(folder.path / "tms_train_config.yaml")
        _tms_pictures(target, run)
        folder.finish(
            {
                "final_loss": losses.tolist(),
                "represented_features": represented_features(target).tolist(),
                "polygon_found": found_polygon(target).tolist(),
                "n_features": model.n_features,
                "trained_instances": model.n_instances,
                "steps": config.steps,
            }
        )
    return folder


def train_resid_mlp(
    config: ResidMLPTrainConfig,
    *,
    runs_root: str | Path = Path("runs"),
    out_dir: str | Path | None = None,
    command: Sequence[str] = (),
    show_progress: bool = True,
) -> RunFolder:
    """Train residual MLPs and write the run.

    At the run's root: ``resid_mlp.pth``, ``resid_mlp_train_config.yaml``, ``label_coeffs.json``.
    ``summary.json``: each instance's final loss. Raises Diverged, and leaves nothing behind then.
    """
    model = config.resid_mlp_config
    with training_run(
        config,
        "resid-mlp",
        resid_mlp_run_name(config),
        config.steps,
        runs_root,
        out_dir,
        command,
        show_progress,
    ) as run:
        target, losses = fit_resid_mlp(config, run.report)
        folder = run.folder
        folder.save_state_dict("resid_mlp.pth", target.state_dict())
        saved = model.model_copy(update={"n_instances": target.n_instances})
        config.model_copy(update={"resid_mlp_config": saved}).to_file(
            folder.path / "resid_mlp_train_config.yaml"
        )
        folder.save_json("label_coeffs.json", resid_mlp_labels(config).coefficients.tolist())
        run.image("loss", folder.save_figure("loss", plots.loss_curves(folder.metrics())))
        folder.finish(
            {
                "final_loss": losses.tolist(),
                "trained_instances": model.n_instances,
                "steps": config.steps,
            }
        )
    return folder


def tms_run_name(config: TMSTrainConfig) -> str:
    """The documented folder name, up to its timestamp."""
    model = config.tms_model_config
    name = (
        f"tms_n-features{model.n_features}_n-hidden{model.n_hidden}_"
        f"n-hidden-layers{model.n_hidden_layers}_n-instances{model.n_instances}_"
        f"feat_prob{config.feature_probability}_seed{config.seed}"
    )
    if config.fixed_identity_hidden_layers:
        return name + "_fixed-identity"
    return name + "_fixed-random" if config.fixed_random_hidden_layers else name


def resid_mlp_run_name(config: ResidMLPTrainConfig) -> str:
    """The original APD code's folder name, up to its timestamp."""
    model = config.resid_mlp_config
    return (
        f"resid_mlp_identity_{config.label_type}_n-instances{model.n_instances}_"
        f"n-features{model.n_features}_d-resid{model.d_embed}_d-mlp{model.d_mlp}_n-layers{model.n_layers}_"
        f"seed{config.seed}_p{config.feature_probability}_random_embedding_{config.fixed_random_embedding}_"
        f"identity_embedding_{config.fixed_identity_embedding}_bias_{model.in_bias}_{model.out_bias}_"
        f"loss{config.loss_type}"
    )


def _tms_pictures(target: TMS, run: TrainingRun) -> None:
    cosines = interference(target).cpu().numpy()
    figures = {
        "cosine_similarity_distribution": (plots.cosine_similarity_distribution(cosines), ""),
        "feature_representation": (
            plots.feature_representation(feature_norms(target).cpu().numpy(), cosines),
            "plots",
        ),
        "loss": (plots.loss_curves(run.folder.metrics()), "plots"),
    }
    if target.config.n_hidden == 2:
        weight = target.linear1.weight.cpu().numpy()
        figures["polygon"] = (plots.polygon(weight, found_polygon(target).tolist()), "")
    for name, (figure, where) in figures.items():
        run.image(name, run.folder.save_figure(name, figure, where=where))
