"""The YAML files of the three original codes, with every field that they wrote."""

from typing import Any

from planted import Planted

Values = dict[str, Any]
AUTHORS_PATH = "/home/author/spd/experiments/{task}/out/run/{task}.pth"


def apd_config(task: str, C: int, m: int, steps: int) -> Values:
    """final_config.yaml of the original APD code."""
    task_config: Values = {
        "task_name": "tms" if task == "tms" else "residual_mlp",
        "feature_probability": 0.05 if task == "tms" else 0.01,
        "data_generation_type": "at_least_zero_active",
        "pretrained_model_path": AUTHORS_PATH.format(task=task),
    }
    task_config |= {"bias_val": 0.0, "train_bias": False} if task == "tms" else {"init_scale": 2.0}
    return {
        "C": C,
        "act_recon_coeff": None if task == "tms" else 1.0,
        "attribution_type": "gradient",
        "batch_size": 2048,
        "batch_topk": True,
        "distil_from_target": False,
        "exact_topk": False,
        "image_freq": 5000,
        "image_on_first_step": True,
        "lp_sparsity_coeff": None,
        "lr": 0.001,
        "lr_exponential_halflife": None,
        "lr_schedule": "cosine",
        "lr_warmup_pct": 0.05,
        "m": m,
        "out_recon_coeff": None,
        "param_match_coeff": 1.0,
        "pnorm": None,
        "print_freq": 100,
        "save_freq": None,
        "schatten_coeff": 15.0,
        "schatten_pnorm": 0.9,
        "seed": 0,
        "slow_images": True,
        "sparsity_loss_type": "jacobian",
        "steps": steps,
        "task_config": task_config,
        "topk": 1.28,
        "topk_recon_coeff": 1.0,
        "unit_norm_matrices": False,
        "wandb_project": None,
        "wandb_run_name": None,
        "wandb_run_name_prefix": "",
    }


def paper_config(task: str, C: int, hidden: int, steps: int, sites: list[str]) -> Values:
    """final_config.yaml of the SPD paper's code."""
    return {
        "C": C,
        "batch_size": 4096,
        "embedding_recon_coeff": None,
        "faithfulness_coeff": 1.0,
        "image_freq": 5000,
        "image_on_first_step": True,
        "importance_minimality_coeff": 0.003,
        "is_embed_unembed_recon": False,
        "log_ce_losses": False,
        "lr": 0.001,
        "lr_exponential_halflife": None,
        "lr_schedule": "cosine",
        "lr_warmup_pct": 0.0,
        "n_ci_mlp_neurons": hidden,
        "n_eval_steps": 100,
        "n_mask_samples": 1,
        "out_recon_coeff": None,
        "output_loss_type": "mse",
        "pnorm": 1.0,
        "pretrained_model_class": _class(task),
        "pretrained_model_name_hf": None,
        "pretrained_model_output_attr": None,
        "pretrained_model_path": "wandb:goodfire/spd-train-toy/runs/hqv4tdqp",
        "print_freq": 50,
        "recon_coeff": None,
        "recon_layerwise_coeff": None,
        "save_freq": None,
        "schatten_coeff": None,
        "seed": 0,
        "steps": steps,
        "stochastic_recon_coeff": 1.0,
        "stochastic_recon_layerwise_coeff": 1.0,
        "target_module_patterns": sites if task == "tms" else ["layers.*.mlp_in", "layers.*.mlp_out"],
        "task_config": _task(task, "residual_mlp"),
        "tokenizer_name": None,
        "wandb_project": None,
        "wandb_run_name": None,
        "wandb_run_name_prefix": "",
    }


def later_config(
    task: str,
    C: dict[str, int],
    ci_fn_type: str,
    hidden_dims: tuple[int, ...],
    sigmoid_type: str,
    steps: int,
    nested: bool,
) -> Values:
    """final_config.yaml of the later SPD code: the newest form when ``nested``, else the one before it."""
    values: Values = {
        "autocast_bf16": True,
        "batch_size": 4096,
        "ci_alive_threshold": 0.1,
        "eval_batch_size": 4096,
        "eval_freq": 1000,
        "eval_metric_configs": [
            {"classname": "CIHistograms", "n_batches_accum": 5},
            {"classname": "IdentityCIError", "dense_ci": None, "identity_ci": None},
            {"classname": "CI_L0", "groups": None},
        ],
        "faithfulness_warmup_lr": 0.01,
        "faithfulness_warmup_steps": 200,
        "faithfulness_warmup_weight_decay": 0.1,
        "grad_clip_norm_components": None,
        "loss_metric_configs": [
            {
                "classname": "ImportanceMinimalityLoss",
                "coeff": 0.003,
                "pnorm": 2.0,
                "beta": 0.5,
                "eps": 1e-12,
                "p_anneal_start_frac": 0.0,
                "p_anneal_final_p": 1.0,
                "p_anneal_end_frac": 1.0,
            },
            {"classname": "StochasticReconLayerwiseLoss", "coeff": 1.0},
            {"classname": "StochasticReconLoss", "coeff": 1.0},
            {
                "classname": "PGDReconSubsetLoss",
                "coeff": 2.0,
                "init": "random",
                "step_size": 1.0,
                "n_steps": 1,
                "mask_scope": "shared_across_batch",
                "routing": {"type": "uniform_k_subset"},
            },
        ],
        "lr_schedule": {"start_val": 0.002, "fn_type": "cosine", "warmup_pct": 0.0, "final_val_frac": 0.0},
        "n_eval_steps": 100,
        "n_mask_samples": 1,
        "output_loss_type": "mse",
        "pretrained_model_class": _class(task),
        "pretrained_model_name": None,
        "pretrained_model_output_attr": None,
        "pretrained_model_path": "wandb:goodfire/spd-pre-Sep-2025/runs/0hsp07o4",
        "sampling": "continuous",
        "save_freq": None,
        "seed": 0,
        "sigmoid_type": sigmoid_type,
        "slow_eval_freq": 5000,
        "slow_eval_on_first_step": True,
        "steps": steps,
        "task_config": _task(task, "resid_mlp"),
        "tokenizer_name": None,
        "train_log_freq": 100,
        "use_delta_component": True,
        "wandb_project": None,
        "wandb_run_name": None,
        "wandb_run_name_prefix": "",
    }
    if nested:
        values["ci_config"] = {"mode": "layerwise", "fn_type": ci_fn_type, "hidden_dims": list(hidden_dims)}
    else:
        values |= {"ci_fn_type": ci_fn_type, "ci_fn_hidden_dims": list(hidden_dims)}
    if nested or len(set(C.values())) > 1:
        values["module_info"] = [{"module_pattern": site, "C": count} for site, count in C.items()]
        values["identity_module_info"] = None
    else:
        values |= {"C": next(iter(C.values())), "target_module_patterns": list(C)}
        values["identity_module_patterns"] = None
    return values


def target_config(task: str, model: Planted, n_instances: int | None) -> Values:
    """tms_train_config.yaml or resid_mlp_train_config.yaml; with ``n_instances`` the original APD code's."""
    values: Values = {
        "wandb_project": None,
        "feature_probability": 0.05 if task == "tms" else 0.01,
        "batch_size": 2048,
        "steps": 2000,
        "seed": 0,
        "lr": 0.005,
        "data_generation_type": "at_least_zero_active",
        "synced_inputs": None,
    }
    apd = {} if n_instances is None else {"n_instances": n_instances}
    if task == "tms":
        n_features, n_hidden = model.weights["linear1"].shape
        hidden_layers = sum(site.startswith("hidden_layers") for site in model.weights)
        inner = {
            "n_features": n_features,
            "n_hidden": n_hidden,
            "n_hidden_layers": hidden_layers,
            "device": "cpu",
        }
        newer = {"tied_weights": True, "init_bias_to_zero": True} if n_instances is None else {}
        fixed = {"fixed_identity_hidden_layers": hidden_layers > 0, "fixed_random_hidden_layers": False}
        return values | fixed | {"tms_model_config": inner | newer | apd}
    n_features, d_embed = model.extra["W_E"].shape
    inner = {
        "n_features": n_features,
        "d_embed": d_embed,
        "d_mlp": model.weights["layers.0.mlp_in"].shape[1],
        "n_layers": len(model.weights) // 2,
        "act_fn_name": "relu",
        "in_bias": "layers.0.mlp_in.bias" in model.extra,
        "out_bias": "layers.0.mlp_out.bias" in model.extra,
    }
    if apd:
        inner |= apd | {"apply_output_act_fn": False, "init_scale": 1.0}
    return values | {
        "resid_mlp_config": inner,
        "label_fn_seed": 0,
        "label_type": "act_plus_resid",
        "loss_type": "readoff",
        "use_trivial_label_coeffs": False,
        "importance_val": 1,
        "fixed_random_embedding": True,
        "fixed_identity_embedding": False,
        "n_batches_final_losses": 10,
        "print_freq": 100,
        "lr_schedule": "cosine",
    }


def _class(task: str) -> str:
    return f"spd.experiments.{task}.models.{'TMSModel' if task == 'tms' else 'ResidualMLP'}"


def _task(task: str, resid_name: str) -> Values:
    return {
        "task_name": "tms" if task == "tms" else resid_name,
        "feature_probability": 0.05 if task == "tms" else 0.01,
        "data_generation_type": "at_least_zero_active",
    }
