"""YAML files as the later SPD code's versions wrote them, in our own words: every key that they had."""

from typing import Any

Values = dict[str, Any]

_TMS = {"task_name": "tms", "feature_probability": 0.05, "data_generation_type": "at_least_zero_active"}
_RESID = {**_TMS, "task_name": "resid_mlp", "feature_probability": 0.01}
_WARMUP = {
    "faithfulness_warmup_steps": 200,
    "faithfulness_warmup_lr": 0.01,
    "faithfulness_warmup_weight_decay": 0.1,
}
_LOGGING = {
    "train_log_freq": 100,
    "eval_freq": 1000,
    "n_eval_steps": 100,
    "slow_eval_freq": 5000,
    "slow_eval_on_first_step": True,
    "save_freq": None,
    "ci_alive_threshold": 0.1,
    "n_examples_until_dead": 4096000,
}
_WANDB = {"wandb_project": None, "wandb_run_name": None, "wandb_run_name_prefix": ""}
_MINIMALITY = {"classname": "ImportanceMinimalityLoss", "coeff": 3e-3, "pnorm": 1.0, "beta": 0}
_ROUTED = {"routing": {"type": "uniform_k_subset"}}
_PGD = {"init": "random", "step_size": 0.1, "n_steps": 2, "mask_scope": "shared_across_batch"}
_SCHEDULE = {"start_val": 1e-3, "fn_type": "cosine", "warmup_pct": 0.0, "final_val_frac": 0.1}


def _metrics(identity: str, n_features: int, dense: str | None) -> list[Values]:
    return [
        {"classname": "CIHistograms", "n_batches_accum": 5},
        {"classname": "ComponentActivationDensity"},
        {"classname": "PermutedCIPlots", "identity_patterns": [identity], "dense_patterns": None},
        {"classname": "UVPlots", "identity_patterns": [identity], "dense_patterns": None},
        {
            "classname": "IdentityCIError",
            "identity_ci": [{"layer_pattern": identity, "n_features": n_features}],
            "dense_ci": [{"layer_pattern": dense, "k": 2}] if dense else None,
        },
        {"classname": "CI_L0", "groups": None},
        {"classname": "CIMeanPerComponent"},
        {"classname": "StochasticHiddenActsReconLoss"},
        {"classname": "PGDReconLoss", "coeff": None, **_PGD},
    ]


def gates_and_coefficients() -> Values:
    """The first versions: gate_type, coefficients, names of metrics and figures."""
    return {
        **_WANDB,
        "seed": 0,
        "C": 8,
        "n_mask_samples": 1,
        "gate_type": "vector_mlp",
        "gate_hidden_dims": [4],
        "sigmoid_type": "leaky_hard",
        "target_module_patterns": ["linear1", "linear2"],
        "faithfulness_coeff": 1.0,
        "recon_coeff": None,
        "stochastic_recon_coeff": 1,
        "recon_layerwise_coeff": None,
        "stochastic_recon_layerwise_coeff": 1,
        "importance_minimality_coeff": 3e-3,
        "schatten_coeff": None,
        "embedding_recon_coeff": None,
        "is_embed_unembed_recon": False,
        "out_recon_coeff": 0.0,
        "pnorm": 1.0,
        "output_loss_type": "mse",
        "batch_size": 4096,
        "steps": "10_000",
        "lr": "1e-3",
        "lr_schedule": "cosine",
        "lr_warmup_pct": 0.0,
        "lr_exponential_halflife": None,
        "n_eval_steps": 100,
        "image_freq": 2000,
        "image_on_first_step": True,
        "print_freq": 100,
        "save_freq": None,
        "n_examples_until_dead": 2048000,
        "figures_fns": [{"name": "ci_histograms"}],
        "metrics_fns": [{"name": "ci_l0"}],
        "pretrained_model_class": "spd.experiments.tms.models.TMSModel",
        "task_config": _TMS,
    }


def metrics_by_class() -> Values:
    """Then: metrics by class with extra_init_kwargs, a subset coefficient, inserted identities."""
    values = gates_and_coefficients()
    for name in ("figures_fns", "metrics_fns", "recon_coeff", "recon_layerwise_coeff", "print_freq"):
        del values[name]
    return values | {
        **_LOGGING,
        "gate_type": "shared_mlp",
        "ci_recon_coeff": None,
        "ci_recon_layerwise_coeff": 0.5,
        "ci_masked_recon_subset_coeff": None,
        "stochastic_recon_subset_coeff": 1,
        "faithfulness_coeff": None,
        "use_delta_component": True,
        "identity_module_patterns": None,
        "dist_backend": None,
        "out_dir": None,
        "eval_batch_size": 4096,
        "gradient_accumulation_steps": 1,
        "eval_metrics": [
            {"classname": "CIHistograms", "extra_init_kwargs": {"n_batches_accum": 5}},
            {"classname": "ComponentActivationDensity", "extra_init_kwargs": {}},
            {"classname": "CI_L0", "extra_init_kwargs": {"groups": {"first": ["linear1"], "total": ["*"]}}},
            {"classname": "FaithfulnessLoss"},
        ],
    }


def list_of_losses() -> Values:
    """Then: the list of losses, beside one C and a schedule by name."""
    return {
        **_WANDB,
        **_WARMUP,
        **_LOGGING,
        "seed": 0,
        "C": 8,
        "n_mask_samples": 1,
        "ci_fn_type": "mlp",
        "ci_fn_hidden_dims": [4],
        "sigmoid_type": "leaky_hard",
        "target_module_patterns": ["linear1", "linear2"],
        "identity_module_patterns": None,
        "use_delta_component": True,
        "loss_metric_configs": [
            {"classname": "ImportanceMinimalityLoss", "coeff": 3e-3, "pnorm": 1.0},
            {"classname": "StochasticReconLayerwiseLoss", "coeff": 1.0},
            {"classname": "StochasticReconLoss", "coeff": 1.0},
        ],
        "output_loss_type": "mse",
        "batch_size": 4096,
        "eval_batch_size": 4096,
        "steps": 10000,
        "lr": 1e-3,
        "lr_schedule": "cosine",
        "lr_warmup_pct": 0.0,
        "eval_metric_configs": _metrics("linear*", 5, None),
        "pretrained_model_class": "spd.experiments.tms.models.TMSModel",
        "task_config": _TMS,
    }


def two_exponents() -> Values:
    """Then: a C for each module, a schedule with its values, and for a while two exponents."""
    values = list_of_losses()
    for name in ("C", "target_module_patterns", "identity_module_patterns", "lr", "lr_warmup_pct"):
        del values[name]
    minimality = {
        "classname": "ImportanceMinimalityLoss",
        "coeff": 3e-3,
        "pnorm_1": 1.0,
        "pnorm_2": 0,
        "beta": 0,
    }
    return values | {
        "module_info": [{"module_pattern": "linear1", "C": 8}, {"module_pattern": "linear2", "C": 6}],
        "lr_schedule": _SCHEDULE,
        "loss_metric_configs": [minimality, {"classname": "StochasticReconLoss", "coeff": 1.0}],
    }


def adversaries() -> Values:
    """The newest form of a toy's file, with every adversarial loss."""
    values = two_exponents()
    for name in ("ci_fn_type", "ci_fn_hidden_dims"):
        del values[name]
    return values | {
        "autocast_bf16": False,
        "ci_config": {"mode": "layerwise", "fn_type": "mlp", "hidden_dims": [4, 4]},
        "sampling": "continuous",
        "identity_module_info": None,
        "init_spd_checkpoint": None,
        "grad_clip_norm_components": 0.01,
        "grad_clip_norm_ci_fns": None,
        "loss_metric_configs": [
            {**_MINIMALITY, "beta": 0.2, "p_anneal_start_frac": 0.0, "p_anneal_final_p": 0.4, "eps": 1e-12},
            {"classname": "FaithfulnessLoss", "coeff": 10.0},
            {"classname": "StochasticReconSubsetLoss", "coeff": 0.5, **_ROUTED},
            {
                "classname": "CIMaskedReconSubsetLoss",
                "coeff": 0.5,
                "routing": {"type": "static_probability", "p": 0.5},
            },
            {"classname": "UnmaskedReconLoss", "coeff": 0.5},
            {"classname": "PGDReconLoss", "coeff": 0.5, **_PGD},
            {
                "classname": "PGDReconSubsetLoss",
                "coeff": 0.5,
                **_PGD,
                "mask_scope": "unique_per_datapoint",
                **_ROUTED,
            },
            {"classname": "PGDReconLayerwiseLoss", "coeff": 0.0, **_PGD, "init": "ones"},
            {
                "classname": "PersistentPGDReconLoss",
                "coeff": 0.5,
                "optimizer": {
                    "type": "adam",
                    "beta1": 0.5,
                    "beta2": 0.99,
                    "eps": 1e-8,
                    "lr_schedule": {**_SCHEDULE, "warmup_pct": 0.025},
                },
                "scope": {"type": "per_batch_per_position"},
                "use_sigmoid_parameterization": False,
                "n_warmup_steps": 2,
            },
            {
                "classname": "PersistentPGDReconSubsetLoss",
                "coeff": 0.5,
                "optimizer": {"type": "sign", "step_size": 0.5},
                "scope": {"type": "batch_invariant", "n_masks": 4},
                **_ROUTED,
            },
            {"classname": "ContinuousPGDReconLoss", "coeff": 0.5, "step_size": 1.0},
            {"classname": "StochasticHiddenActsReconLoss", "coeff": 0.1},
        ],
        "eval_metric_configs": [
            *_metrics("linear*", 5, None),
            {"classname": "CIHiddenActsReconLoss"},
            {
                "classname": "PGDMultiBatchReconLoss",
                "init": "random",
                "step_size": 0.1,
                "n_steps": 2,
                "gradient_accumulation_steps": 2,
            },
        ],
    }


def one_function_for_all_sites() -> Values:
    """A residual MLP with a global causal importance function."""
    values = adversaries()
    return values | {
        "ci_config": {"mode": "global", "fn_type": "global_shared_mlp", "hidden_dims": [6, 5]},
        "module_info": [
            {"module_pattern": "layers.*.mlp_in", "C": 8},
            {"module_pattern": "layers.*.mlp_out", "C": 6},
        ],
        "loss_metric_configs": [
            {**_MINIMALITY, "coeff": 1e-5, "pnorm": 0.9},
            {"classname": "StochasticReconLayerwiseLoss", "coeff": 1.0},
            {"classname": "StochasticReconLoss", "coeff": 1.0},
        ],
        "eval_metric_configs": _metrics("layers.*.mlp_in", 6, "layers.*.mlp_out"),
        "pretrained_model_class": "spd.experiments.resid_mlp.models.ResidMLP",
        "task_config": _RESID,
    }


def two_layers() -> Values:
    """A residual MLP of two layers, as the later code takes it apart almost perfectly."""
    values = one_function_for_all_sites()
    del values["ci_config"]
    return values | {
        "use_global_ci": False,
        "ci_fn_type": "shared_mlp",
        "ci_fn_hidden_dims": [16],
        "identity_module_info": [],
        "loss_metric_configs": [
            {**_MINIMALITY, "coeff": 1e-4, "pnorm": 2.0},
            {"classname": "StochasticReconSubsetLoss", "coeff": 2.0, **_ROUTED},
            {"classname": "PGDReconSubsetLoss", "coeff": 2.0, **_PGD, "n_steps": 1, **_ROUTED},
        ],
    }


def induction(task_name: str = "ih") -> Values:
    """The induction heads' file, with the coefficients that it kept."""
    return {
        "wandb_project": None,
        "wandb_run_name": None,
        "seed": 0,
        "batch_size": 16,
        "steps": 1000000,
        "lr_schedule": {"start_val": "1e-3", "fn_type": "constant"},
        "n_eval_steps": 200,
        "task_config": {"task_name": task_name},
        "n_mask_samples": 1,
        "module_info": [
            {"module_pattern": f"blocks.*.attn.{part}_proj", "C": 6} for part in ("q", "k", "v", "out")
        ],
        "faithfulness_coeff": 100,
        "ci_recon_coeff": 1,
        "stochastic_recon_coeff": 1,
        "ci_recon_layerwise_coeff": None,
        "stochastic_recon_layerwise_coeff": 1,
        "importance_minimality_coeff": "1e-2",
        "pnorm": 0.1,
        "ci_config": {"mode": "layerwise", "fn_type": "vector_mlp", "hidden_dims": [5]},
        **_WARMUP,
        "image_freq": 500,
        "image_on_first_step": True,
        "print_freq": 100,
        "save_freq": None,
        "pretrained_model_class": "spd.experiments.ih.model.InductionTransformer",
    }


def language_model() -> Values:
    """A language model's file in the newest form."""
    values = adversaries()
    return values | {
        "module_info": [
            {"module_pattern": "h.*.mlp.c_fc", "C": 64},
            {"module_pattern": "h.*.attn.q_proj", "C": 16},
        ],
        "ci_config": {"mode": "layerwise", "fn_type": "shared_mlp", "hidden_dims": [32]},
        "output_loss_type": "kl",
        "autocast_bf16": True,
        "profiling": {},
        "eval_metric_configs": [
            {"classname": "CI_L0", "groups": {"layer_0": ["h.0.*"], "total": ["*"]}},
            {"classname": "CEandKLLosses", "rounding_threshold": 0.0},
            {
                "classname": "StochasticReconSubsetCEAndKL",
                "include_patterns": {"layer_0_only": ["h.0.*"]},
                "exclude_patterns": None,
            },
            {"classname": "StochasticAttnPatternsReconLoss", "n_heads": 4, "c_attn_path": "h.*.attn"},
        ],
        "pretrained_model_class": "transformers.GPT2LMHeadModel",
        "pretrained_model_path": None,
        "pretrained_model_name": "openai-community/gpt2",
        "pretrained_model_output_attr": "logits",
        "tokenizer_name": "openai-community/gpt2",
        "task_config": {
            "task_name": "lm",
            "max_seq_len": 512,
            "buffer_size": 1000,
            "dataset_name": "SimpleStories/SimpleStories",
            "column_name": "story",
            "train_data_split": "train",
            "eval_data_split": "test",
            "shuffle_each_epoch": True,
            "is_tokenized": False,
            "streaming": True,
        },
    }
