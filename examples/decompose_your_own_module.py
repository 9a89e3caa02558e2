"""Take a network of your own apart: any nn.Module whose nn.Linear layers you want explained.

    python examples/decompose_your_own_module.py [STEPS]

Here: a small classifier of handwritten digits. 1,500 steps take about half a minute on one core.
"""

import sys

import torch
from torch import Tensor, nn

import microtome
from microtome.data.images import digits


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(64, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.hidden(x)))


steps = int(sys.argv[1]) if len(sys.argv) > 1 else 1500
torch.manual_seed(0)
torch.set_num_threads(1)
train, test = digits()
assert train.y is not None and test.y is not None

model = Classifier()
optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
for _ in range(300):
    optimiser.zero_grad()
    nn.functional.cross_entropy(model(train.x), train.y).backward()
    optimiser.step()

result = microtome.decompose(
    model, data=train.x, sites=["hidden", "head"], output_loss_type="kl", C=40, n_ci_mlp_neurons=8,
    importance_minimality_coeff=3e-3, batch_size=256, steps=steps, lr=3e-3, progress=True,
)  # fmt: skip


def accuracy(logits: Tensor) -> str:
    return f"{(logits.argmax(-1) == test.y).float().mean():.1%}"


x = test.x[None]  # one decomposition: the leading axis has length one
importances = {site: ci.lower for site, ci in (result.causal_importances(x) or {}).items()}
print(f"test accuracy of the network {accuracy(model(test.x))}")
print(f"of all components {accuracy(result.forward(x)[0])}")
print(f"of only those important for each image {accuracy(result.forward(x, importances)[0])}")
for site, ci in importances.items():
    print(f"{site}: {(ci > 0).sum(-1).float().mean():.1f} of {ci.shape[-1]} components important per image")
