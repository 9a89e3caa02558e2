"""Load a decomposition and look inside: causal importances, component weights, the effect of masks.

    python examples/load_and_inspect.py [RUN]

RUN is a run folder that `microtome decompose` made; left out, the newest one under runs/.
"""

import sys

import torch

from microtome.decomposition.component_model import ComponentModel, SPDRunInfo, make_mask_infos

info = SPDRunInfo.from_path(sys.argv[1] if len(sys.argv) > 1 else "latest")
model = ComponentModel.from_run_info(info)
print(f"{info.checkpoint_path}: {info.config.method}, components at each site {model.module_to_c}")

# Inputs with one feature on: which components does the model say it needs for each?
# (A residual MLP's first site sits behind its embedding, so the input's width is the configuration's.)
first, config = model.components[model.target_module_paths[0]], model.target_model.config
width = config.n_features if hasattr(config, "n_features") else len(first.V)
x = 0.75 * torch.eye(width)
output, site_inputs = model(x, cache_type="input")
importances = model.calc_causal_importances(site_inputs).lower_leaky

for site, values in importances.items():
    print(f"\n{site}: {tuple(model.components[site].weight.shape)} weights")
    delta = model.calc_weight_deltas()[site].norm() / model.components[site].target_weight.norm()
    print(f"  the sum of its components misses {delta:.1%} of it")
    weights = model.components[site].component_weights()  # [C, d_out, d_in]
    for row, ci in enumerate(values[:5]):
        on = (ci > 0.1).nonzero().flatten().tolist()
        norms = ", ".join(f"{c} (importance {ci[c]:.2f}, weight norm {weights[c].norm():.2f})" for c in on)
        print(f"  input {row}: components {norms or 'none'}")

# Keep only what is important: how much does the output change?
masked = model(x, mask_infos=make_mask_infos(importances))
print(f"\nmean squared error with causal-importance masks: {(masked - output).square().mean():.2e}")
print(f"mean square of the output itself:                {output.square().mean():.2e}")
