"""The recorder: training goes on as if nobody looked, and what is written is what was there."""

import json
import random
import subprocess
import sys
import warnings
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import cross_entropy
from trainings import Mixed, assert_undisturbed, both, data, train

from microtome.core.errors import MicrotomeError
from microtome.dynamics import recording
from microtome.dynamics.recorder import Recorder
from microtome.dynamics.when import at, every
from microtome.measures.dimensionality import MEASURES, measure_all


def table(out, name="measures"):
    (file,) = (out / "tables").glob(f"{name}_*.parquet")
    return pd.read_parquet(file)


def facts(out):
    return json.loads((out / "recording.json").read_text())


# -- training is not disturbed


@pytest.mark.parametrize("settings", [{}, {"on": "batch"}, {"captures": True}, {"save": None}])
def test_training_is_bit_identical_with_dropout_and_batch_norm(tmp_path, settings):
    bare, recorded, _ = both(Mixed, tmp_path / "run", when="always", **settings)
    assert_undisturbed(bare, recorded)


class DrawsWhenItLooks(nn.Module):
    """Counts its passes in a buffer, replaces another, and draws random numbers, even in eval mode."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(36, 3)
        self.register_buffer("passes", torch.zeros(()))
        self.register_buffer("last", torch.zeros(3))

    def forward(self, x):
        self.passes += 1
        self.last = self.fc.weight.detach().sum(1) + self.passes
        noise = torch.randn(3) * 0.1 + np.random.rand() * 0.1
        return self.fc(x.flatten(1)) + noise + 0.001 * self.passes


def test_buffers_and_random_numbers_are_put_back(tmp_path):
    bare, recorded, _ = both(DrawsWhenItLooks, tmp_path / "run", when="always")
    assert_undisturbed(bare, recorded)


PYTHONS_RANDOM = """
import random, torch
from microtome.dynamics.recorder import Recorder
class Draws(torch.nn.Linear):
    def forward(self, x):
        return super().forward(x) * random.random()
with Recorder(torch.nn.Sequential(Draws(4, 2)), torch.randn(3, 4), {out!r}, when="always") as recorder:
    random.seed(1)
    recorder.step(0)
    assert recorder.failure is None
    print(random.random())
"""


def test_python_s_random_numbers_are_put_back(tmp_path):
    # In a process of its own: the run-time checks of our tests draw from Python's generator themselves.
    words = [sys.executable, "-c", PYTHONS_RANDOM.format(out=str(tmp_path / "run"))]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert float(done.stdout) == random.Random(1).random()


def test_modes_of_single_modules_are_put_back(tmp_path):
    model = Mixed()
    model.norm.eval()
    with Recorder(model, data()[0][:8], tmp_path / "run", when="always") as recorder:
        recorder.step(0)
        assert model.training and model.drop.training and not model.norm.training


def test_autocast_keeps_training(tmp_path):
    def losses(recorder_of):
        torch.manual_seed(0)
        model = nn.Linear(36, 3)
        x, y = data()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        found = []
        with recorder_of(model) as recorder:
            for step in range(5):
                with torch.autocast("cpu", torch.bfloat16):
                    if recorder is not None:  # first thing in the block: nothing without gradients is cached
                        recorder.step(step)
                    loss = cross_entropy(model(x.flatten(1)), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                found.append(loss.item())
        return found

    import contextlib

    bare = losses(lambda model: contextlib.nullcontext())
    probe = data()[0][:8].flatten(1)
    recorded = losses(lambda m: Recorder(nn.Sequential(m), probe, tmp_path / "run", when="always"))
    assert bare == recorded and len(set(bare)) == 5


class TwoOutputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.LSTM(6, 8, batch_first=True)
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        hidden, (last, _) = self.inner(x[:, 0])
        return self.out(last[0]), hidden


class Attends(nn.Module):
    """nn.MultiheadAttention by itself and inside an encoder layer."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 8)
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        x = self.inner(x[:, 0])
        return self.out(self.encoder(self.attention(x, x, x)[0]).mean(1))


class Shared(nn.Module):
    """One module at two places of the forward pass, and under two names."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(36, 36)
        self.also = self.first
        self.out = nn.Linear(36, 3)

    def forward(self, x):
        return self.out(torch.relu(self.also(torch.relu(self.first(x.flatten(1))))))


def test_tuple_outputs(tmp_path):
    bare, recorded, _ = both(TwoOutputs, tmp_path / "run", when=every(10))
    assert_undisturbed(bare, recorded)
    assert facts(tmp_path / "run")["layers"] == ["inner", "out"]
    assert facts(tmp_path / "run")["rows"]["inner"].startswith("[20, 6, 8] -> [120, 8]")


def test_attention_modules_are_layers_and_what_is_in_them_is_not(tmp_path):
    bare, recorded, _ = both(Attends, tmp_path / "run", when=every(10))
    assert_undisturbed(bare, recorded)
    assert facts(tmp_path / "run")["layers"] == [
        "inner", "attention", "encoder.self_attn", "encoder.linear1", "encoder.linear2", "out",
    ]  # fmt: skip
    assert not table(tmp_path / "run").isna().any().any()


def test_a_shared_module_is_measured_at_each_place(tmp_path):
    bare, recorded, _ = both(Shared, tmp_path / "run", when=at([30]))
    assert_undisturbed(bare, recorded)
    assert facts(tmp_path / "run")["layers"] == ["first", "first#2", "out"]
    model = Shared()
    model.load_state_dict(load_file(tmp_path / "run" / "checkpoints" / "step_000030.safetensors"))
    x = data()[0][:20].flatten(1)
    once = model.first(x)
    expected = measure_all({"first": once, "first#2": model.first(torch.relu(once))})
    found = table(tmp_path / "run").set_index("layer")
    for layer, values in expected.items():
        assert found.loc[layer, "stable_rank"] == pytest.approx(values["stable_rank"], rel=1e-6)


def test_bfloat16_and_channels_last(tmp_path):
    def make():
        return Mixed().to(torch.bfloat16).to(memory_format=torch.channels_last)

    x, y = data()
    x16 = x.to(torch.bfloat16).to(memory_format=torch.channels_last)
    bare, recorded, _ = both(make, tmp_path / "run", inputs=x16, labels=y, when=every(10))
    assert_undisturbed(bare, recorded)
    assert not table(tmp_path / "run").isna().any().any()
    # A float32 probe is converted.
    with Recorder(make(), x[:8], tmp_path / "other", when="always") as recorder:
        recorder.step(0)
    assert recorder.failure is None and len(table(tmp_path / "other")) == 3


@pytest.mark.parametrize("whole", [True, False])
def test_compiled_models(tmp_path, whole):
    def wrap(model):
        if whole:
            return torch.compile(model, backend="aot_eager")
        model.fc1 = torch.compile(model.fc1, backend="aot_eager")
        return model

    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dynamo's own
        bare, recorded, _ = both(Mixed, tmp_path / "run", when=every(5), wrap=wrap)
    assert_undisturbed(bare, recorded)
    assert facts(tmp_path / "run")["layers"] == ["conv", "fc1", "fc2"]
    kept = load_file(tmp_path / "run" / "checkpoints" / "step_000030.safetensors")
    Mixed().load_state_dict(kept)  # names as if nothing were compiled
    with pytest.raises(MicrotomeError, match=r"on='batch'.*compiled"):
        Recorder(wrap(Mixed()), None, tmp_path / "other", on="batch")


# -- what is written is what was there


def test_measures_and_scalars_are_those_of_the_model_at_that_step(tmp_path):
    out = tmp_path / "run"
    x, y = data()
    model, probe, seen = Mixed(), x[:20], {}
    with Recorder(model, probe, out, when=at([0, 3, 7]), labels=y[:20], captures=at([3])) as recorder:

        def after(step):
            if step in (3, 7):
                model.eval()
                with torch.no_grad():
                    conv = model.conv(probe)
                    hidden = model.fc1(torch.relu(model.norm(conv)).mean((2, 3)))
                    logits = model(probe)
                model.train()
                right = (logits.argmax(-1) == y[:20]).float().mean()
                seen[step] = (conv.mean((2, 3)), hidden, logits, cross_entropy(logits, y[:20]), right)

        losses = train(model, recorder, 10, after=after)
    measures, scalars = table(out), table(out, "scalars").set_index("step")
    assert list(measures.columns) == ["step", "layer", *MEASURES]
    assert measures.step.tolist() == [3, 3, 3, 7, 7, 7]
    assert measures.layer.tolist() == ["conv", "fc1", "fc2"] * 2
    np.testing.assert_array_equal(scalars.loss, losses)
    for step, (conv, fc1, fc2, loss, right) in seen.items():
        expected = measure_all({"conv": conv, "fc1": fc1, "fc2": fc2})
        found = measures[measures.step == step].set_index("layer")
        for layer, values in expected.items():
            assert found.loc[layer].drop("step").to_dict() == pytest.approx(values, rel=1e-9)
        assert scalars.probe_loss[step] == pytest.approx(loss.item(), rel=1e-6)
        assert scalars.probe_accuracy[step] == pytest.approx(right.item())
    assert scalars.probe_loss.notna().sum() == 2
    capture = load_file(out / "captures" / "step_000003.safetensors")
    assert capture["conv"].shape == (20, 6, 6, 6)
    torch.testing.assert_close(capture["fc2"], seen[3][2])
    saved = load_file(out / "probe.safetensors")
    assert torch.equal(saved["inputs"], probe) and torch.equal(saved["labels"], y[:20])


def test_on_batch_measures_the_batch_of_that_step_and_no_evaluation(tmp_path):
    out = tmp_path / "run"
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 2))
    expected = {}
    with Recorder(model, None, out, on="batch", when=every(2)) as recorder:
        for step in range(7):
            x = torch.randn(12, 4)
            expected[step] = measure_all({"0": model[0](x), "2": model[2](torch.relu(model[0](x)))})
            model(x).sum().backward()
            with torch.no_grad():
                model(torch.randn(50, 4))  # an evaluation before the recorder is told
            model.eval()
            model(torch.randn(50, 4))
            model.train()
            recorder.step(step)
    found = table(out).set_index(["step", "layer"])
    assert found.index.get_level_values("step").unique().tolist() == [0, 2, 4, 6]
    for step in (0, 2, 4, 6):
        for layer in ("0", "2"):
            # The test's own pass runs the layers too, but not the model.
            assert found.loc[(step, layer)].to_dict() == pytest.approx(expected[step][layer], rel=1e-9)


def test_named_layers_chosen_measures_and_a_thinned_list(tmp_path):
    out = tmp_path / "run"
    with Recorder(
        Mixed(), data()[0][:8], out, layers=["fc2", "norm"], measures=["entropy_rank"], when="always"
    ) as recorder:
        recorder.step(0)
    assert facts(out)["layers"] == ["norm", "fc2"]
    assert list(table(out).columns) == ["step", "layer", "entropy_rank"]
    deep = nn.Sequential(*(nn.Linear(3, 3) for _ in range(100)))
    told = []
    with Recorder(deep, torch.randn(5, 3), tmp_path / "deep", note=told.append) as recorder:
        recorder.step(0)
    layers = facts(tmp_path / "deep")["layers"]
    assert len(layers) == 64 and layers[0] == "0" and layers[-1] == "99"
    assert max(int(b) - int(a) for a, b in pairwise(layers)) == 2
    assert "100 layers, of which 64" in told[0]


def test_many_parts_read_as_one(tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "RECORDS_A_PART", 2)
    monkeypatch.setattr(recording, "MOST_PARTS", 4)
    with Recorder(
        nn.Linear(4, 2),
        torch.randn(6, 4),
        tmp_path / "run",
        when="always",
        layers=[""],
    ) as recorder:
        for step in range(31):
            recorder.step(step, loss=torch.tensor(float(step), dtype=torch.float64))
            assert len(list((tmp_path / "run" / "tables").glob("measures_*"))) <= 4
    assert recorder.failure is None
    assert table(tmp_path / "run").step.tolist() == list(range(31))
    assert table(tmp_path / "run", "scalars").loss.tolist() == list(range(31))


def test_scalars_of_every_kind(tmp_path):
    with Recorder(
        nn.Sequential(nn.Linear(4, 2)), torch.randn(6, 4), tmp_path / "run", when=at([])
    ) as recorder:
        recorder.step(1, loss=1, accuracy=np.float32(0.5))
        recorder.step(2, loss=torch.tensor([2.5], requires_grad=True))
        recorder.log(2, learning_rate=0.1)
    scalars = table(tmp_path / "run", "scalars").set_index("step")
    assert scalars.loss.tolist() == [1.0, 2.5]
    assert scalars.accuracy[1] == 0.5 and np.isnan(scalars.accuracy[2])
    assert scalars.learning_rate[2] == 0.1


# -- what cannot be


def told_when_made(tmp_path, model, probe, **settings):
    with pytest.raises(MicrotomeError) as caught:
        Recorder(model, probe, tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_probe_that_does_not_fit(tmp_path):
    said = told_when_made(tmp_path, Mixed(), torch.randn(8, 3, 6, 6))
    assert said.startswith("probe='inputs [8, 3, 6, 6]': does not fit the model (")
    assert "holds no tensor" in told_when_made(tmp_path, Mixed(), {"text": "hello"})
    assert "give inputs" in told_when_made(tmp_path, Mixed(), None)
    said = told_when_made(tmp_path, Mixed(), data()[0][:8], labels=torch.zeros(9, dtype=torch.int64))
    assert said.startswith("labels=[9]: do not fit the model's output [8, 3]")


def test_layers_that_are_not_there_or_do_not_run(tmp_path):
    x = data()[0][:8]
    assert "did you mean fc1?" in told_when_made(tmp_path, Mixed(), x, layers=["fc_1"])
    model = Mixed()
    model.unused = nn.Linear(2, 2)
    assert "does not run" in told_when_made(tmp_path, model, x, layers=["fc1", "unused"])
    assert "no layer with a matrix" in told_when_made(tmp_path, nn.ReLU(), x)
    assert "no such measure" in told_when_made(tmp_path, Mixed(), x, measures=["rank"])
    assert "not a schedule" in told_when_made(tmp_path, Mixed(), x, when="sometimes")
    with Recorder(model, x, tmp_path / "run", when="always") as recorder:  # auto leaves it out
        recorder.step(0)
    assert facts(tmp_path / "run")["layers"] == ["conv", "fc1", "fc2"]


def test_a_folder_that_holds_something(tmp_path):
    x = data()[0][:8]
    with Recorder(Mixed(), x, tmp_path / "run") as recorder:
        recorder.step(0)
    with pytest.raises(MicrotomeError, match="holds a finished recording"):
        Recorder(Mixed(), x, tmp_path / "run")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("x")
    with pytest.raises(MicrotomeError, match="already holds files"):
        Recorder(Mixed(), x, tmp_path / "other")


def test_a_tensor_of_losses_stops_the_recorder_only(tmp_path, capsys):
    with Recorder(Mixed(), data()[0][:8], tmp_path / "run", when="always") as recorder:
        recorder.step(0, loss=torch.zeros(3))
        recorder.step(1, loss=torch.zeros(3))
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "training goes on" in said[0] and "give one number" in said[0]
