"""What an evaluation measures, on how much, and what it asks for. Imports no torch."""

from pathlib import Path

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from microtome.core.config import Config, Probability

METRICS = {
    "faithfulness": "weights against the sum of the components, over all and by site",
    "ci_l0": "components that matter for an input, by site and group of sites",
    "ci_histograms": "values that causal importances take",
    "ci_mean_per_component": "each component's mean causal importance",
    "component_activation_density": "share of inputs on which each component is active",
    "alive": "components that fire at all, and those that have kept silent too long",
    "recon": "output under each kind of mask: error, cross-entropy, accuracy, share recovered",
    "hidden_acts_recon": "what reaches each site under masks, against the target",
    "pgd_recon": "output under adversarial masks",
    "pgd_multi_batch_recon": "output under adversarial masks that several batches share (asked for by name)",
    "uv_plots": "the factors of the components, drawn where they are small",
    "losses": "the training's own losses on the evaluation's inputs",
    "stochastic_recon_subset_ce_and_kl": "output with some sites masked only",
    "identity_ci_error": "causal importances of one feature at a time against the pattern that is right",
    "recovery": "directions and lengths of a toy model's features in the components",
}
# The names that the later SPD code and its configurations use.
OTHER_NAMES = {
    "ce_and_kl": "recon",
    "CEandKLLosses": "recon",
    "CI_L0": "ci_l0",
    "CIHistograms": "ci_histograms",
    "CIMeanPerComponent": "ci_mean_per_component",
    "ComponentActivationDensity": "component_activation_density",
    "IdentityCIError": "identity_ci_error",
    "permuted_ci_plots": "identity_ci_error",
    "PermutedCIPlots": "identity_ci_error",
    "UVPlots": "uv_plots",
    "PGDMultiBatchReconLoss": "pgd_multi_batch_recon",
    "StochasticReconSubsetCEAndKL": "stochastic_recon_subset_ce_and_kl",
    "StochasticHiddenActsReconLoss": "hidden_acts_recon",
    "FaithfulnessLoss": "faithfulness",
    "UnmaskedReconLoss": "recon",
    "CIMaskedReconLoss": "recon",
    "StochasticReconLoss": "recon",
    "PGDReconLoss": "pgd_recon",
    "unmasked_recon": "recon",
    "ci_masked_recon": "recon",
    "stochastic_recon": "recon",
    "alive_components": "alive",
}


class Thresholds(Config):
    """What each check asks for."""

    max_weight_error: PositiveFloat = 0.01
    """Largest share of a site's squared weights that the sum of its components may miss."""
    min_recovered: Probability = 0.9
    """Least share of what ablating everything costs that must come back under causal-importance, rounded and
    stochastic masks. In cross-entropy where there are labels, otherwise in distance to the target."""
    min_recovered_unmasked: Probability = 0.99
    """The same with all components on."""
    max_pgd_ratio: PositiveFloat = 3.0
    """Most that the error under adversarial masks may be, in errors under stochastic masks."""
    max_l0_share: Probability = 0.3
    """Largest share of the components that may matter for an input on average, over all sites."""
    min_other_inputs_ratio: PositiveFloat = 2.0
    """Least that the error must grow by when each input gets the causal importances of another."""
    max_identity_error: NonNegativeFloat = 0.0
    """Most entries of the causal importances of single features that may be off."""
    min_recovered_features: Probability = 1.0
    """Least share of a toy model's features that must have a component of their own."""


class EvaluateConfig(Thresholds):
    """An evaluation of a decomposition."""

    metrics: tuple[str, ...] | None = None
    """What to measure; null measures all that applies. `--list` lists them."""
    n_eval_steps: PositiveInt = 10
    """Batches. The spread over them says how far a number can be trusted."""
    batch_size: PositiveInt | None = None
    """Inputs in a batch; null takes the run's eval_batch_size, or its batch_size up to 1024."""
    seed: int = 0
    """Of the evaluation's inputs and masks; they are none of the training's."""
    ci_alive_threshold: Probability | None = None
    """Causal importance above which a component counts as active; null takes the run's."""
    n_examples_until_dead: PositiveInt | None = None
    """Inputs (tokens) without firing after which a component is dead; null takes the run's, or all that are
    seen here."""
    rounding_threshold: Probability | None = None
    """Causal importances above it are 1 in rounded masks, others 0; null takes the run's, or 0.5."""
    n_mask_samples: PositiveInt | None = None
    """Draws of stochastic masks a batch; null takes the run's."""
    pgd_n_steps: PositiveInt | None = None
    """Steps of the adversary; null takes the run's, or 20."""
    pgd_step_size: PositiveFloat | None = None
    """Length of the adversary's step; null takes the run's, or 0.1."""
    device: str = "auto"
    threads: PositiveInt | None = None
    """CPU threads; null chooses by the size of the work."""
    pictures: bool = True
    """Draw the pictures."""
    output_dir: Path | None = None
    """Where to write, in place of the run's own folder (or of a new one, for what is no run of ours)."""
