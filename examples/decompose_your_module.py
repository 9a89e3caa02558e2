"""Take a network of your own apart: any nn.Module of linear, embedding and convolution layers.

    python examples/decompose_your_module.py [STEPS]

Here a tiny language model: after the letters a to f comes the next of the six, after u to z the one before.
1,000 steps take some ten seconds on one core.
"""

import sys

import torch
from torch import Tensor, nn

import microtome


class NextLetter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 16)
        self.up = nn.Linear(16, 32)
        self.down = nn.Linear(32, 16)
        self.unembed = nn.Linear(16, 12, bias=False)
        self.unembed.weight = self.embed.weight  # tied: taken apart as one

    def forward(self, letters: Tensor) -> Tensor:
        x = self.embed(letters)
        return self.unembed(x + self.down(torch.relu(self.up(x))))


steps = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
torch.manual_seed(0)
torch.set_num_threads(1)
letters = torch.arange(12)
following = torch.cat([(letters[:6] + 1) % 6, (letters[6:] - 7) % 6 + 6])
model = NextLetter()
optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
for _ in range(300):
    optimiser.zero_grad()
    nn.functional.cross_entropy(model(letters), following).backward()
    optimiser.step()

sites = {"embed": 24, "up": 24, "down": 24, "unembed": 24}  # how many subcomponents each may use
result = microtome.decompose(
    model, data=letters, sites=sites, output_loss_type="kl", importance_minimality_coeff=5e-3, pnorm=1.0,
    n_ci_mlp_neurons=8, batch_size=24, steps=steps, lr=5e-3, progress=True,
)  # fmt: skip

x = letters[None]  # one decomposition: the leading axis has length one
importances = {site: ci.lower for site, ci in (result.causal_importances(x) or {}).items()}
for name, logits in [
    ("the network", model(letters)),
    ("all of its components", result.forward(x)[0]),
    ("only those important for each letter", result.forward(x, importances)[0]),
]:
    print(f"{name}: {(logits.argmax(-1) == following).float().mean():.0%} of letters right")
for site, ci in importances.items():
    print(f"{site}: {(ci > 0).sum(-1).float().mean():.1f} of {ci.shape[-1]} important for a letter")
