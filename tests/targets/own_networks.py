"""A user's module, as `package.module:Class` finds it."""

from torch import nn


class SmallNet(nn.Module):
    def __init__(self, width=4, lazy=False):
        super().__init__()
        last = nn.LazyLinear(3) if lazy else nn.Linear(width * 64, 3)
        self.model = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Flatten(), last)

    def forward(self, x):
        return self.model(x)


def tiny():
    return SmallNet(2)


def not_a_network():
    return 3
