"""Configuration of Stochastic Parameter Decomposition. Imports no torch.

Every field of the SPD paper's code is here under its name and with its default, and some of ours.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from microtome.core.config import Config, Probability
from microtome.core.errors import bad_value
from microtome.data.generation import DataGenerationType


class SPDTMSTask(Config):
    """Inputs of a Toy Model of Superposition."""

    task_name: Literal["tms"] = "tms"
    feature_probability: Probability = 0.05
    """Probability that a feature is on in one sample."""
    data_generation_type: DataGenerationType = "at_least_zero_active"


class SPDResidMLPTask(Config):
    """Inputs of a residual MLP."""

    task_name: Literal["residual_mlp", "resid_mlp"] = "residual_mlp"
    feature_probability: Probability = 0.01
    """Probability that a feature is on in one sample."""
    data_generation_type: DataGenerationType = "at_least_zero_active"


class SPDTargetTask(Config):
    """The inputs that the target was trained on (digits, or data handed over from Python)."""

    task_name: Literal["target_data", "digits"] = "target_data"


class SPDLanguageTask(Config):
    """Text for a language model; understood so that old files parse."""

    task_name: Literal["lm"]
    max_seq_len: PositiveInt = 512
    buffer_size: PositiveInt = 1000
    dataset_name: str = "lennart-finke/SimpleStories"
    column_name: str = "story"
    train_data_split: str = "train"
    eval_data_split: str = "test"


Task = Annotated[
    SPDTMSTask | SPDResidMLPTask | SPDTargetTask | SPDLanguageTask, Field(discriminator="task_name")
]


class SPDConfig(Config):
    """Stochastic Parameter Decomposition (Bushnaq, Braun, Sharkey 2025)."""

    renamed: ClassVar[dict[str, str]] = {
        "m": "C",
        "lp_sparsity_coeff": "importance_minimality_coeff",
        "random_mask_recon_coeff": "stochastic_recon_coeff",
        "layerwise_random_recon_coeff": "stochastic_recon_layerwise_coeff",
        "masked_recon_coeff": "recon_coeff",
        "layerwise_recon_coeff": "recon_layerwise_coeff",
        "param_match_coeff": "faithfulness_coeff",
        "n_random_masks": "n_mask_samples",
        "n_gate_hidden_neurons": "n_ci_mlp_neurons",
    }

    method: Literal["spd"] = "spd"

    # The target and its inputs
    pretrained_model_path: str | None = None
    """Where the target is: a run folder, a checkpoint file, `latest`, or `wandb:[entity/]project/runs/id`."""
    pretrained_model_class: str | None = None
    """Read from old files; the checkpoint tells its own kind."""
    pretrained_model_name_hf: str | None = None
    """A Hugging Face model; for language models."""
    pretrained_model_output_attr: str | None = None
    """Attribute of the model's output to compare; for language models."""
    tokenizer_name: str | None = None
    instances: tuple[NonNegativeInt, ...] | None = None
    """Which of the target's instances to decompose; null takes all that were kept."""
    target_module_patterns: tuple[str, ...] = ("*",)
    """Sites to decompose, as shell-style patterns of their names."""
    task_config: Task = SPDTargetTask()

    # Subcomponents
    C: PositiveInt = 20
    """Subcomponents at each site."""
    n_ci_mlp_neurons: NonNegativeInt = 16
    """Hidden neurons of each gate; 0 makes the gates linear."""
    n_mask_samples: PositiveInt = 1
    """Mask draws per step and stochastic loss."""

    # Losses: null leaves a loss out, 0 only reports it
    faithfulness_coeff: NonNegativeFloat | None = 1.0
    stochastic_recon_coeff: NonNegativeFloat | None = 1.0
    stochastic_recon_layerwise_coeff: NonNegativeFloat | None = 1.0
    recon_coeff: NonNegativeFloat | None = None
    recon_layerwise_coeff: NonNegativeFloat | None = None
    importance_minimality_coeff: NonNegativeFloat = 3e-3
    schatten_coeff: NonNegativeFloat | None = None
    out_recon_coeff: NonNegativeFloat | None = None
    embedding_recon_coeff: NonNegativeFloat | None = None
    is_embed_unembed_recon: bool = False
    pnorm: PositiveFloat = 1.0
    """p of the importance minimality loss."""
    p_anneal_final_p: PositiveFloat | None = None
    """p at the end, reached linearly; null keeps p constant. Going from 2 to 1 frees seeds that would
    otherwise stay stuck with two mechanisms in one subcomponent."""
    p_anneal_start_frac: Probability = 1.0
    """Share of the steps after which p begins to move."""
    p_anneal_end_frac: Probability = 1.0
    """Share of the steps after which p is at its final value."""
    output_loss_type: Literal["mse", "kl"] = "mse"

    # Training
    seed: int = 0
    n_seeds: PositiveInt = 1
    """Decompositions of every target instance, from seeds `seed`, `seed + 1`, ..., side by side."""
    steps: PositiveInt = 10_000
    batch_size: PositiveInt = 4096
    lr: PositiveFloat = 1e-3
    lr_schedule: Literal["constant", "linear", "cosine", "cosine_half", "exponential"] = "constant"
    """`cosine` is the original's quarter wave, `cosine_half` the usual half wave."""
    lr_exponential_halflife: PositiveFloat | None = None
    """Steps in which the exponential schedule halves the rate."""
    lr_warmup_pct: Probability = 0.0
    """Share of the steps in which the rate rises linearly from 0."""

    # Reports
    n_eval_steps: PositiveInt = 100
    print_freq: PositiveInt = 100
    """Steps between two rows of metrics."""
    image_freq: PositiveInt | None = None
    """Steps between pictures; null draws them at the end only."""
    pictures: bool = True
    """Draw pictures at all; `microtome interpret RUN` draws them later."""
    image_on_first_step: bool = False
    save_freq: PositiveInt | None = None
    """Steps between model files; null writes one at the end. Checkpoints to resume from come every 30 s."""
    log_ce_losses: bool = False
    """Cross-entropy under each masking; for language models."""
    wandb_project: str | None = None
    wandb_run_name: str | None = None
    wandb_run_name_prefix: str = ""
    tracker: Literal["none", "wandb", "tensorboard"] | None = None
    """Where metrics go besides the run folder; null: `wandb` when wandb_project is set, else none."""
    device: str = "auto"
    threads: PositiveInt | None = None
    """CPU threads; null chooses by the size of the work."""

    @model_validator(mode="after")
    def _check(self) -> "SPDConfig":
        if self.lr_schedule == "exponential" and self.lr_exponential_halflife is None:
            raise bad_value(
                "lr_exponential_halflife", None, "the exponential schedule needs it", "give steps"
            )
        if self.embedding_recon_coeff or self.is_embed_unembed_recon:
            field = "embedding_recon_coeff" if self.embedding_recon_coeff else "is_embed_unembed_recon"
            raise bad_value(field, getattr(self, field), "applies to language models only", "remove it")
        if self.p_anneal_end_frac < self.p_anneal_start_frac:
            raise bad_value(
                "p_anneal_end_frac", self.p_anneal_end_frac, "before p_anneal_start_frac", "swap them"
            )
        if self.wandb_project is None and self.tracker == "wandb":
            raise bad_value("tracker", "wandb", "no project to log to", "set wandb_project")
        return self

    def p_at(self, step: int) -> float:
        """p of the importance minimality loss at a step."""
        start, end = self.p_anneal_start_frac * self.steps, self.p_anneal_end_frac * self.steps
        if self.p_anneal_final_p is None or step < start:
            return self.pnorm
        done = 1.0 if step >= end else (step - start) / (end - start)
        return self.pnorm + done * (self.p_anneal_final_p - self.pnorm)
