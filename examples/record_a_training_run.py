"""Record a training run of your own, find what changed in it, and compare before with after.

    python examples/record_a_training_run.py [STEPS]

Under a minute on one core; needs nothing but the package. The network is a small convolutional one on
scikit-learn's digits.
"""

import sys

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from microtome.data.images import digits
from microtome.dynamics.before_after import compare
from microtome.dynamics.comparison_files import write_comparison
from microtome.dynamics.moments import identify
from microtome.dynamics.recorder import Recorder
from microtome.dynamics.run import open_run

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 600

train, test = ((half.x.reshape(-1, 1, 8, 8), half.y) for half in digits())
network = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1),
    nn.ReLU(),
    nn.Conv2d(16, 32, 3, padding=1),
    nn.ReLU(),
    nn.Flatten(),
    nn.Linear(32 * 64, 10),
)
optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
torch.manual_seed(0)

# Two lines: the recorder around the loop, and a step inside. It measures on a fixed probe, without touching
# the training, and keeps the states around whatever changes.
with Recorder(network, test[0][:128], "runs/my-run", labels=test[1][:128], when=5) as recorder:
    for step in range(steps):
        rows = torch.randint(len(train[0]), (64,))
        loss = cross_entropy(network(train[0][rows]), train[1][rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        recorder.step(step, loss=loss)

run = open_run("runs/my-run")
moments = identify(run, num_jumps=3)
print(f"{len(moments) // 3} changes:", *(f"{m.moment_type} {m.step}" for m in moments[1::3]))

# Before against after: the first and the last kept state.
kept = run.checkpoint_steps()
result = compare(run, kept[0], kept[-1], model=network)
for layer, row in result.measurements["representations"].items():
    print(f"layer {layer}: CKA {row['cka']:.2f}, selectivity {row['selectivity_after']:.2f}")
print("Wrote", write_comparison(result, "runs/my-run/comparison", run, model=network)[1])
