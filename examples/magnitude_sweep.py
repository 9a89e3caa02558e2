"""Sweep inputs' magnitudes through a decomposed network, and read what its parts do.

    python examples/magnitude_sweep.py [RUN]

RUN is a decomposition, latest, or a run of the original codes; left out, a residual MLP with four planted
features is decomposed first (a minute on one core).
"""

import sys

import torch

import microtome
from microtome.data.sparse_features import SparseFeatures
from microtome.magnitude import importance
from microtome.magnitude.sweep import compute
from microtome.targets.config import ResidMLPModelConfig
from microtome.targets.resid_mlp import ResidMLP


def small_model() -> ResidMLP:
    """Feature i goes through neuron i alone, which answers from magnitude 0.2 on."""
    target = ResidMLP(ResidMLPModelConfig(n_features=4, d_embed=4, d_mlp=4, n_layers=1, in_bias=True))
    target.reset(embedding="identity")
    with torch.no_grad():
        for part in ("mlp_in", "mlp_out"):
            target.linear(f"layers.0.{part}").weight.copy_(torch.eye(4)[None])
        target.linear("layers.0.mlp_in").bias.fill_(-0.2)  # pyright: ignore[reportOptionalMemberAccess]
    return target


words = sys.argv[1:]
steps = int(words.pop()) if words and words[-1].isdigit() else 4000
if words:
    found = microtome.load(words[0])
else:
    data = SparseFeatures(1, 4, 0.2, "at_least_zero_active", (-1.0, 1.0))
    settings = {"C": 6, "lr": 5e-3, "batch_size": 256, "importance_minimality_coeff": 3e-3, "pictures": False}
    found = microtome.decompose(small_model(), data=data, steps=steps, progress=True, **settings)

# Features 0 and 1, magnitudes 0 to 2, everything in one forward pass.
sweep = compute(found, [0, 1], n_steps=100, max_magnitude=2.0)
table = sweep.responses()
print(table.groupby(["site", "family"])["kind"].value_counts().to_string())

neurons = table[(table["family"] == "neurons") & (table["kind"] == "threshold")]
print("\nneurons with a threshold:\n", neurons.filter(["feature", "site", "index", "onset", "slope"]))
sweep.plot(feature=0, site=sweep.sites[0]).savefig("magnitude_sweep.png", dpi=150)
print("\nWrote magnitude_sweep.png")

if found.method == "spd":
    every = importance.compute(found, n_steps=50, max_magnitude=1.0)
    for site in every.sites:
        print(f"{site}: components that turn on", sorted(set(every.frame().query("site == @site")["index"])))
    every.plot(every.sites[0], onsets=True).savefig("onsets.png", dpi=150)
    print("Wrote onsets.png: the magnitude at which each component turns on, for each feature")
