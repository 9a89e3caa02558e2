"""Configuration of Attribution-based Parameter Decomposition. Imports no torch.

Every field of the original APD code is here under its name and with its default; old names and retired keys
are carried over with a note.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from microtome.core.config import Config, Probability
from microtome.core.errors import bad_value
from microtome.data.generation import DataGenerationType


class APDTMSTask(Config):
    """A Toy Model of Superposition and the data it is decomposed on."""

    task_name: Literal["tms"] = "tms"
    feature_probability: Probability = 0.05
    """Probability that a feature is on in one sample."""
    train_bias: Literal[False] = False
    """The target's bias is copied and kept; training it is not supported."""
    bias_val: float = 0.0
    """Read from old files; the target's bias replaces it, as in the original."""
    init_scale: PositiveFloat = 1.0
    """Gain of the xavier initialisation."""
    data_generation_type: DataGenerationType = "at_least_zero_active"
    pretrained_model_path: str
    """Where the target is: a run folder, a checkpoint file, or `wandb:[entity/]project/runs/id`."""


class APDResidMLPTask(Config):
    """A residual MLP and the data it is decomposed on."""

    task_name: Literal["residual_mlp"] = "residual_mlp"
    feature_probability: Probability = 0.01
    """Probability that a feature is on in one sample."""
    init_scale: PositiveFloat = 1.0
    """Gain of the xavier initialisation."""
    data_generation_type: DataGenerationType = "at_least_zero_active"
    pretrained_model_path: str
    """Where the target is: a run folder, a checkpoint file, or `wandb:[entity/]project/runs/id`."""


class APDConfig(Config):
    """Attribution-based Parameter Decomposition (Braun et al. 2025)."""

    renamed: ClassVar[dict[str, str]] = {"task_config.k": "C", "topk_act_recon_coeff": "act_recon_coeff"}
    retired: ClassVar[dict[str, str]] = {
        "topk_param_attrib_coeff": "the loss on parameter attributions was dropped by the original authors",
        "orthog_coeff": "the orthogonality loss was dropped by the original authors",
        "hardcode_topk_mask_step": "masks always come from the attributions",
        "pnorm_end": "pnorm is constant during the run",
        "topk_l2_coeff": "use schatten_coeff, which replaced it",
        "spd_type": "components are always low-rank products A B",
        "sparsity_warmup_pct": "the coefficients are constant during the run",
    }

    method: Literal["apd"] = "apd"
    wandb_project: str | None = None
    """Log to this Weights & Biases project; null logs to the run folder only."""
    wandb_run_name: str | None = None
    wandb_run_name_prefix: str = ""
    tracker: Literal["none", "wandb", "tensorboard"] | None = None
    """Where metrics go besides the run folder; null: `wandb` when wandb_project is set, else none."""
    seed: int = 0
    """Start of every random stream: initialisation and data."""
    n_seeds: PositiveInt = 1
    """Decompositions of every target instance, side by side in one process."""
    n_instances: PositiveInt | None = None
    """How many of the target's instances to decompose; null takes all."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps`."""
    threads: PositiveInt | None = None
    """CPU threads; null chooses by the size of the work."""

    topk: PositiveFloat | None = None
    """Components active per sample, on average over the batch when `batch_topk`."""
    batch_topk: bool = True
    """Rank all (sample, component) pairs of the batch together instead of each sample by itself."""
    exact_topk: bool = False
    """Use the batch's mean number of active features as `topk`."""
    batch_size: PositiveInt
    steps: PositiveInt
    print_freq: PositiveInt
    """Steps between two rows of metrics."""
    image_freq: PositiveInt | None = None
    """Steps between pictures; null draws them at the end only."""
    pictures: bool = True
    """Draw pictures at all; `microtome interpret RUN` draws them later."""
    image_on_first_step: bool = True
    slow_images: bool = False
    """Draw the costly pictures during training too."""
    save_freq: PositiveInt | None = None
    """Steps between model files; null writes one at the end. Checkpoints to resume from come every 30 s."""
    lr: PositiveFloat
    out_recon_coeff: NonNegativeFloat | None = None
    """Output error with all components on."""
    act_recon_coeff: NonNegativeFloat | None = None
    """Error of the sites' outputs in the top-k pass."""
    param_match_coeff: NonNegativeFloat | None = 1.0
    """Squared difference of the summed components and the target's weights."""
    topk_recon_coeff: NonNegativeFloat | None = None
    """Output error with the top-k components on."""
    schatten_coeff: NonNegativeFloat | None = None
    """Simplicity: Schatten norm of the active components."""
    schatten_pnorm: PositiveFloat | None = None
    lp_sparsity_coeff: NonNegativeFloat | None = None
    """Lp norm of the attributions (the variant without top-k)."""
    distil_from_target: bool = False
    """The last component is on for every sample and takes no part in the ranking."""
    pnorm: PositiveFloat | None = None
    """p of the Lp sparsity."""
    C: PositiveInt
    """Components."""
    m: PositiveInt | None = None
    """Largest rank of a component; null: for TMS min(n_features, n_hidden) + 1, else the smaller side."""
    lr_schedule: Literal["constant", "linear", "cosine", "cosine_half", "exponential"] = "constant"
    """`cosine` is the original's quarter wave."""
    lr_exponential_halflife: PositiveFloat | None = None
    lr_warmup_pct: Probability = 0.0
    """Share of the steps in which the rate rises linearly from 0."""
    sparsity_loss_type: Literal["jacobian"] = "jacobian"
    unit_norm_matrices: bool = False
    """Keep the columns of every A at length one."""
    attribution_type: Literal["gradient", "ablation", "activation"] = "gradient"
    attribution_model: Literal["target", "decomposed"] = "target"
    """Whose gradients and activations gradient attributions use: the target's (the original code) or the
    summed components' (the APD paper's TMS 5-2 result)."""
    task_config: Annotated[APDTMSTask | APDResidMLPTask, Field(discriminator="task_name")] | None = None

    @model_validator(mode="after")
    def _check(self) -> "APDConfig":
        self._check_topk()
        self._check_losses()
        if self.lr_schedule == "exponential" and self.lr_exponential_halflife is None:
            raise bad_value(
                "lr_exponential_halflife", None, "the exponential schedule needs it", "give it in steps"
            )
        return self

    def _check_topk(self) -> None:
        if self.topk is None:
            if self.exact_topk:
                raise bad_value(
                    "exact_topk", True, "replaces the value of topk, which is null", "set topk as well"
                )
            return
        ranked = self.C - 1 if self.distil_from_target else self.C
        if ranked < 1:
            raise bad_value(
                "C", self.C, "distil_from_target needs a component beside the last", "use at least 2"
            )
        if self.topk > ranked:
            reason = f"only {ranked} components are ranked for each sample"
            raise bad_value("topk", self.topk, reason, f"use at most {ranked}")
        if not self.batch_topk and not float(self.topk).is_integer():
            raise bad_value("topk", self.topk, "not a whole number", "use one, or set batch_topk: true")
        if self.exact_topk and not self.batch_topk:
            raise bad_value("exact_topk", True, "only defined over the batch", "set batch_topk: true")
        if self.batch_topk and int(self.topk * self.batch_size) < 1:
            reason = f"no pair of the batch of {self.batch_size} would be active"
            raise bad_value("topk", self.topk, reason, "raise topk or batch_size")

    def _check_losses(self) -> None:
        if self.topk is None and self.lp_sparsity_coeff is None:
            raise bad_value(
                "topk", None, "nothing makes the components sparse", "set topk or lp_sparsity_coeff"
            )
        if self.topk is None and self.topk_recon_coeff is not None:
            raise bad_value("topk_recon_coeff", self.topk_recon_coeff, "needs topk", "set topk or drop it")
        if self.lp_sparsity_coeff is not None and self.pnorm is None:
            raise bad_value("pnorm", None, "lp_sparsity_coeff needs it", "set it, for example 0.9")
        if self.schatten_coeff is not None and self.schatten_pnorm is None:
            raise bad_value("schatten_pnorm", None, "schatten_coeff needs it", "set it, for example 0.9")
        coefficients = (
            self.param_match_coeff,
            self.out_recon_coeff,
            self.topk_recon_coeff,
            self.act_recon_coeff,
        )
        if not any(coefficients):
            raise bad_value(
                "param_match_coeff",
                self.param_match_coeff,
                "no loss ties the components to the target",
                "set param_match_coeff, out_recon_coeff or topk_recon_coeff",
            )
