"""Configuration of Stochastic Parameter Decomposition. Imports no torch.

Every field of the SPD paper's code is here under its name and with its default, those of its later main line
(whose files are read too: see ``old_runs.later_config``), and some of ours.
"""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from microtome.core.config import Config, Note, Probability
from microtome.core.errors import bad_value
from microtome.core.schedules import learning_rate_factor
from microtome.decomposition.importance_config import (
    ImportanceFunction,
    ImportanceKind,
    ImportanceMode,
    SamplingType,
    SigmoidType,
)
from microtome.decomposition.loss_configs import AnyLoss, Loss, annealed, labelled
from microtome.decomposition.metric_configs import Metric
from microtome.decomposition.old_runs.later_config import as_ours
from microtome.decomposition.paper_losses import FIELDS, losses_of_coefficients, place_in_losses
from microtome.decomposition.schedule_config import Schedule
from microtome.decomposition.site_configs import PRE_IDENTITY, ModuleSites, components_of
from microtome.decomposition.spd_tasks import (
    SPDInductionTask,
    SPDLanguageTask,
    SPDResidMLPTask,
    SPDTargetTask,
    SPDTMSTask,
    Task,
)

__all__ = [
    "SPDConfig",
    "SPDInductionTask",
    "SPDLanguageTask",
    "SPDResidMLPTask",
    "SPDTMSTask",
    "SPDTargetTask",
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
    """Read from old files: of language models the logits are compared."""
    tokenizer_name: str | None = None
    instances: tuple[NonNegativeInt, ...] | None = None
    """Which of the target's instances to decompose; null takes all that were kept."""
    target_module_patterns: tuple[str, ...] = ("*",)
    """Sites to decompose, as shell-style patterns of their names."""
    module_info: tuple[ModuleSites, ...] | None = None
    """Patterns of sites, each with its own C; takes the place of target_module_patterns and C."""
    identity_module_info: tuple[ModuleSites, ...] | None = None
    """Modules in front of which an identity is inserted and decomposed, each with its C."""
    task_config: Task = SPDTargetTask()

    # Subcomponents
    C: PositiveInt = 20
    """Subcomponents at each site."""
    n_ci_mlp_neurons: NonNegativeInt = 16
    """Hidden neurons of each gate; 0 makes the gates linear."""
    ci_fn_type: ImportanceKind = "mlp"
    """Each gate reads its inner activation (`mlp`) or the site's input (`vector_mlp`), or one network for all
    of a site's reads the input (`shared_mlp`)."""
    ci_fn_hidden_dims: tuple[NonNegativeInt, ...] | None = None
    """Sizes of the gates' hidden layers; null takes n_ci_mlp_neurons."""
    ci_fn_mode: ImportanceMode = "layerwise"
    """`global`: one `shared_mlp` reads all sites' inputs at once."""
    sigmoid_type: SigmoidType = "paper"
    """From gates to causal importances; `paper` is the paper's pair of leaky hard sigmoids."""
    sampling: SamplingType = "continuous"
    """Sources of masks: uniform in [0, 1], or `binomial`, 0 or 1."""
    use_delta_component: bool = False
    """Mask what the subcomponents leave out of a weight like one subcomponent more."""
    n_mask_samples: PositiveInt = 1
    """Mask draws per step and stochastic loss."""
    init_spd_checkpoint: str | None = None
    """A run or model file to take the subcomponents and gates from, instead of random ones."""

    # Losses: null leaves a loss out, 0 only reports it
    losses: tuple[Loss, ...] | None = None
    """The list of losses, each `{name, coeff, ...}` with name faithfulness, importance_minimality, smooth_l0,
    frequency, schatten, unmasked_recon, ci_masked_recon, stochastic_recon, pgd_recon, persistent_pgd_recon or
    hidden_acts_recon; null takes those that the coefficients below stand for."""
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
    lr_final_frac: NonNegativeFloat = 0.0
    """The rate at the end of `linear`, `cosine` and `cosine_half`, as a share of lr."""
    components_lr_schedule: Schedule | None = None
    """The subcomponents' own rate, instead of lr and lr_schedule."""
    ci_fns_lr_schedule: Schedule | None = None
    """The gates' own rate, instead of lr and lr_schedule."""
    grad_clip_norm_components: PositiveFloat | None = None
    """Largest norm of the subcomponents' gradient; null never clips it."""
    grad_clip_norm_ci_fns: PositiveFloat | None = None
    """Largest norm of the gates' gradient; null never clips it."""
    faithfulness_warmup_steps: NonNegativeInt = 0
    """Steps on faithfulness alone before the training."""
    faithfulness_warmup_lr: PositiveFloat = 1e-3
    faithfulness_warmup_weight_decay: NonNegativeFloat = 0.0
    gradient_accumulation_steps: PositiveInt = 1
    """Parts that a batch is computed in, one after the other."""
    autocast_bf16: bool = False
    """Multiply in bfloat16; faster on GPUs, slower on most CPUs."""
    activation_checkpointing: bool = False
    """Compute a language model's blocks again in the backward pass, instead of keeping their activations."""

    # Reports
    metrics: tuple[Metric, ...] = ()
    """What evaluations measure besides the losses, each `{name, ...}`."""
    eval_freq: PositiveInt | None = None
    """Steps between evaluations; null makes none (`microtome decompose evaluate RUN` does at any time)."""
    slow_eval_freq: PositiveInt | None = None
    """Steps between evaluations with slow metrics and pictures; null makes none."""
    slow_eval_on_first_step: bool = True
    """Whether the first evaluation is a slow one."""
    eval_batch_size: PositiveInt | None = None
    """Rows of a batch in evaluations; null takes batch_size."""
    n_eval_steps: PositiveInt = 100
    """Batches of an evaluation."""
    ci_alive_threshold: Probability = 0.0
    """A subcomponent fires where its causal importance is above this."""
    n_examples_until_dead: PositiveInt | None = None
    """A subcomponent is dead that has not fired for this many inputs; null never counts."""
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
    """Read from old files: runs on text tell cross-entropies at their end, `evaluate` under each masking."""
    wandb_project: str | None = None
    wandb_run_name: str | None = None
    wandb_run_name_prefix: str = ""
    tracker: Literal["none", "wandb", "tensorboard"] | None = None
    """Where metrics go besides the run folder; null: `wandb` when wandb_project is set, else none."""
    device: str = "auto"
    threads: PositiveInt | None = None
    """CPU threads; null chooses by the size of the work."""

    @classmethod
    def carried_over(cls, values: Mapping[str, Any], source: str, note: Note) -> dict[str, Any]:
        """The settings of a file of the later SPD code under our names."""
        return as_ours(values, source, note)

    @classmethod
    def stands_at(cls, values: Mapping[str, Any], dotted: str) -> str:
        """Where a setting stands in ``values``: a paper's coefficient in the list of losses, if there."""
        return place_in_losses(values.get("losses"), dotted)

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
        if self.batch_size % self.gradient_accumulation_steps:
            raise bad_value(
                "gradient_accumulation_steps",
                self.gradient_accumulation_steps,
                f"does not divide batch_size={self.batch_size}",
                "give a divisor",
            )
        if self.ci_fn_mode == "global" and self.ci_fn_type != "shared_mlp":
            raise bad_value(
                "ci_fn_type", self.ci_fn_type, "a global function is a shared_mlp", "use shared_mlp"
            )
        self._check_losses()
        return self

    def _check_losses(self) -> None:
        if self.losses is None:
            return
        for name in FIELDS:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise bad_value(
                    name,
                    getattr(self, name),
                    "losses takes the place of it",
                    "set it in losses, or leave it out",
                )

    @property
    def all_losses(self) -> dict[str, AnyLoss]:
        """The losses by label: ``losses``, or those that the paper's coefficients stand for."""
        if self.losses is not None:
            return labelled(self.losses)
        return labelled(losses_of_coefficients({name: getattr(self, name) for name in FIELDS}))

    @property
    def site_patterns(self) -> tuple[str, ...]:
        """Patterns of the sites to decompose; identities that are to be inserted left out."""
        info = self.module_info
        return self.target_module_patterns if info is None else tuple(part.module_pattern for part in info)

    @property
    def identity_patterns(self) -> tuple[str, ...]:
        """Patterns of the modules in front of which an identity is inserted."""
        return tuple(part.module_pattern for part in self.identity_module_info or ())

    def subcomponents(self, sites: Iterable[str]) -> dict[str, int]:
        """How many subcomponents each site gets, inserted identities (``<module>.pre_identity``) too."""
        identities = [
            ModuleSites(module_pattern=part.module_pattern + PRE_IDENTITY, C=part.C)
            for part in self.identity_module_info or ()
        ]
        return components_of(sites, [*identities, *(self.module_info or ())], self.C)

    @property
    def importance_function(self) -> ImportanceFunction:
        """The causal importance functions."""
        hidden = self.ci_fn_hidden_dims
        if hidden is None:
            hidden = (self.n_ci_mlp_neurons,) if self.n_ci_mlp_neurons else ()
        return ImportanceFunction(self.ci_fn_type, self.ci_fn_mode, hidden, self.sigmoid_type, self.sampling)

    def learning_rate(self, group: Literal["components", "ci_fns"], step: int) -> float:
        """The learning rate of the subcomponents or of the gates at a step."""
        own = self.components_lr_schedule if group == "components" else self.ci_fns_lr_schedule
        if own is not None:
            return own.value_at(step, self.steps)
        factor = learning_rate_factor(
            self.lr_schedule, step, self.steps, self.lr_warmup_pct, self.lr_exponential_halflife
        )
        rising = step < int(self.steps * self.lr_warmup_pct)
        if self.lr_final_frac and not rising and self.lr_schedule not in ("constant", "exponential"):
            factor = self.lr_final_frac + (1.0 - self.lr_final_frac) * factor
        return self.lr * factor

    def p_at(self, step: int) -> float:
        """p of the importance minimality loss at a step."""
        if self.p_anneal_final_p is None:
            return self.pnorm
        start, end = self.p_anneal_start_frac * self.steps, self.p_anneal_end_frac * self.steps
        return annealed(self.pnorm, self.p_anneal_final_p, start, end, float(step))
