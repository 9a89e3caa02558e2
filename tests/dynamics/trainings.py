"""Small trainings that tests of the recorder share."""

import random

import numpy as np
import torch
from torch import nn

from microtome.dynamics.recorder import Recorder


class Mixed(nn.Module):
    """Convolution, batch norm, in-place ReLU, dropout, linear maps."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.3)
        self.fc1, self.fc2 = nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, x):
        x = self.relu(self.norm(self.conv(x))).mean((2, 3))
        return self.fc2(self.drop(self.relu(self.fc1(x))))


def data(n=96, shape=(1, 6, 6), classes=3, seed=1):
    source = torch.Generator().manual_seed(seed)
    return torch.randn(n, *shape, generator=source), torch.randint(classes, (n,), generator=source)


def train(model, recorder=None, steps=30, lr=0.05, inputs=None, labels=None, first=1, after=None):
    """SGD with momentum on batches drawn from torch's global generator; the losses, exactly."""
    if inputs is None:
        inputs, labels = data()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    losses = []
    for step in range(first, steps + 1):
        rows = torch.randint(len(inputs), (16,))
        output = model(inputs[rows])
        output = output[0] if isinstance(output, tuple) else output
        loss = nn.functional.cross_entropy(output.float(), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if recorder is not None:
            recorder.step(step, loss=loss)
        if after is not None:
            after(step)
    return losses


def both(make, out, steps=30, inputs=None, labels=None, wrap=lambda model: model, **settings):
    """Losses and final states of the same training, bare and recorded; and the recorder."""
    inputs, labels = data() if inputs is None else (inputs, labels)
    results = []
    for recorded in (False, True):
        torch.manual_seed(3)
        model = wrap(make())
        torch.manual_seed(4)
        np.random.seed(5)
        random.seed(6)
        if not recorded:
            losses = train(model, steps=steps, inputs=inputs, labels=labels)
        else:
            with Recorder(model, inputs[:20], out, labels=labels[:20], **settings) as recorder:
                losses = train(model, recorder, steps, inputs=inputs, labels=labels)
        results.append((losses, {k: v.clone() for k, v in model.state_dict().items()}, torch.rand(1).item()))
    assert recorder.failure is None, recorder.failure
    return *results, recorder


def assert_undisturbed(bare, recorded):
    """Bit for bit: losses, parameters, buffers, and where the random numbers have come to."""
    assert bare[0] == recorded[0]
    assert bare[1].keys() == recorded[1].keys()
    assert all(torch.equal(bare[1][name], recorded[1][name]) for name in bare[1])
    assert bare[2] == recorded[2]
