"""Train a Toy Model of Superposition, take it apart by SPD, and ask whether its mechanisms came back.

    python examples/train_and_decompose_tms.py [STEPS]

Five features share two dimensions. Each feature has a mechanism of its own, a row of the first matrix, and
SPD should find them without being told. 10,000 steps take well under a minute on one core.
"""

import sys

import microtome
from microtome.training.config import TMSModelConfig, TMSTrainConfig

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000

train = TMSTrainConfig(
    tms_model_config=TMSModelConfig(n_features=5, n_hidden=2),
    batch_size=1024,
    steps=min(steps, 3000),
    lr=5e-3,
)
target = microtome.train_tms(train)

result = microtome.decompose(
    target.path,
    C=20,
    n_ci_mlp_neurons=16,
    importance_minimality_coeff=3e-3,
    batch_size=1024,
    steps=steps,
    lr=7e-3,
    lr_schedule="cosine_half",
    progress=True,
)

assert result.run is not None
summary = result.run.summary
print(f"recovered {summary['recovered_mechanisms'][0]} of {summary['mechanisms']} mechanisms")
mmcs, ml2r = summary["mmcs"][0], summary["ml2r"][0]
print(f"mean max cosine similarity {mmcs:.4f}, mean L2 ratio {ml2r:.3f} (both 1 when perfect)")
print(f"pictures: {result.run.path / 'plots'}")
