"""Training: what is learnt, carrying on, data-parallel processes, and streams that cannot be trained on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from microtome.core.errors import Diverged, MicrotomeError
from microtome.core.runs import RunFolder
from microtome.dictionaries.buffer import ShuffledBatches, TensorSource
from microtome.dictionaries.loop import TrainingLoop
from microtome.dictionaries.losses import jumprelu_loss, relu_loss
from microtome.dictionaries.planted import PlantedData, planted_test, recovery
from microtome.dictionaries.train import fit
from microtome.dictionaries.train_config import DictionaryTraining
from microtome.dictionaries.trainer import DictionaryTrainer

ALL = ["batch_topk", "topk", "matryoshka", "jumprelu", "gated", "relu"]
SMALL = PlantedData(n_features=48, d=24, active=3.0, skew=0.0)


def small(architecture: str, **more) -> DictionaryTraining:
    about = {"n_features": 96, "k": 3, "steps": 300, "batch_size": 256, "lr": 0.01, "device": "cpu"}
    return DictionaryTraining.from_mapping({"architecture": architecture, **about, **more})


@pytest.mark.parametrize("architecture", ALL)
def test_planted_directions_are_found(architecture: str) -> None:
    _, numbers, warnings = planted_test(SMALL, small(architecture))
    assert numbers["mmcs"] > 0.8 > numbers["mmcs_of_random_rows"] + 0.1
    # Nested dictionaries of equally frequent features share directions among the first of them.
    assert numbers["found"] > (0.3 if architecture == "matryoshka" else 0.55)
    assert numbers["fvu"] < 0.75 * numbers["pca_fvu"] and warnings == []
    assert 1.5 <= numbers["l0"] <= 4.5


def test_recovery_by_hand() -> None:
    planted = torch.eye(3)
    rows = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
    found = recovery(rows, planted)
    assert found["mmcs"] == pytest.approx((1 + 0.5**0.5 * 2) / 3)
    assert found["found"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("architecture", ALL)
def test_the_input_factor_is_folded_into_the_weights(architecture: str) -> None:
    config = small(architecture)
    x = torch.randn(500, 24) * 7 + 3
    trainer = DictionaryTrainer("a", config.dictionary(24), config, x)
    for _ in range(5):
        trainer.step(x[:256])
    if architecture in ("batch_topk", "matryoshka"):
        trainer.dictionary.get_parameter("threshold").data.fill_(
            trainer.threshold_sum / trainer.threshold_weight
        )
    inside = trainer.dictionary(x * trainer.factor) / trainer.factor
    finished = trainer.finished()
    torch.testing.assert_close(finished(x), inside, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(finished.W_dec.norm(dim=1), torch.ones(96))
    assert x.norm(dim=1).mean() * trainer.factor == pytest.approx(24**0.5, rel=1e-4)


def test_dead_features_are_revived() -> None:
    config = small("topk", dead_after=600, steps=60)
    data = SMALL.stream(512, 12)
    trainer = DictionaryTrainer("a", config.dictionary(24), config, data[0])
    with torch.no_grad():
        trainer.dictionary.W_enc[50:] *= 0.01  # too short ever to be among the largest
    alone = DictionaryTrainer(
        "a", config.dictionary(24), small("topk", dead_after=600, aux_weight=0), data[0]
    )
    with torch.no_grad():
        alone.dictionary.W_enc[50:] *= 0.01
    for step in range(60):
        revived, left = trainer.step(data[step % 12]), alone.step(data[step % 12])
    assert left.dead >= 40 and revived.dead <= left.dead // 2


def test_dead_features_are_resampled() -> None:
    config = small("relu", dead_after=500, steps=12, resample=(0.5,))
    data = SMALL.stream(256, 12)
    trainer = DictionaryTrainer("a", config.dictionary(24), config, data[0])
    with torch.no_grad():
        trainer.dictionary.get_parameter("b_enc")[50:] = -100.0
    for step in range(5):
        before = trainer.step(data[step])
    rows = trainer.dictionary.W_dec.detach().clone()
    after = trainer.step(data[5])
    assert before.dead >= 46 and after.dead < 10
    assert not torch.equal(trainer.dictionary.W_dec[50:], rows[50:])
    assert (trainer.dictionary.get_parameter("b_enc")[50:].abs() < 1).all()


def test_thresholds_of_dead_features_sink() -> None:
    config = small("jumprelu", dead_after=500, steps=12)
    data = SMALL.stream(256, 12)
    trainer = DictionaryTrainer("a", config.dictionary(24), config, data[0])
    with torch.no_grad():
        trainer.dictionary.get_parameter("threshold")[50:] = 30.0
    for step in range(6):
        trainer.step(data[step])
    threshold = trainer.dictionary.get_parameter("threshold")
    assert trainer.dead[50:].all()
    torch.testing.assert_close(threshold[50:], torch.full((46,), 30.0 * 0.97**4), atol=0.1, rtol=0)


def test_penalised_losses_by_hand() -> None:
    config = small("relu", n_features=2, k=1)
    trainer = DictionaryTrainer("a", config.dictionary(2), config, torch.randn(50, 2))
    d = trainer.dictionary
    with torch.no_grad():
        d.W_enc.copy_(torch.eye(2))
        d.W_dec.copy_(torch.eye(2))
        d.b_dec.zero_()
        d.get_parameter("b_enc").fill_(-1.0)
    x = torch.tensor([[3.0, 0.5]])
    loss, f, error = relu_loss(d, x, penalty=0.1, rows=1, bandwidth=0.0)
    assert f.tolist() == [[2.0, 0.0]] and error.tolist() == [[-1.0, -0.5]]
    assert loss.item() == pytest.approx((1.25 + 0.2) / 2)


def test_straight_through_estimator_by_hand() -> None:
    config = small("jumprelu", n_features=2, k=1)
    trainer = DictionaryTrainer("a", config.dictionary(2), config, torch.randn(50, 2))
    d = trainer.dictionary
    with torch.no_grad():
        d.W_enc.copy_(torch.eye(2))
        d.W_dec.copy_(torch.eye(2))
        d.b_dec.zero_()
        d.get_parameter("b_enc").zero_()
        d.get_parameter("threshold").fill_(1.0)
    # The first input is within half a bandwidth of its threshold, the second is not.
    loss, f, _ = jumprelu_loss(d, torch.tensor([[1.1, 5.0]]), penalty=0.3, rows=1, bandwidth=0.5)
    loss.backward()
    assert f.tolist() == [[pytest.approx(1.1), 5.0]] and loss.item() == pytest.approx(0.3)
    # d loss / d threshold = -(threshold / bandwidth * dL/df + penalty / bandwidth), and dL/df is 0 here.
    gradient = d.get_parameter("threshold").grad
    assert gradient is not None and gradient.tolist() == pytest.approx([-0.3 / 0.5 / 2, 0.0])


# -- any stream


def test_any_stream_of_activations() -> None:
    data = SMALL.stream(256, 4)
    config = small("topk", steps=6)
    whole = fit(torch.cat(data), config)["activations"]
    for stream in (data, lambda: iter(data), torch.utils.data.DataLoader(torch.cat(data), batch_size=256)):
        again = fit(stream, config)["activations"]
        torch.testing.assert_close(again.W_dec, whole.W_dec)
    sites = fit(({"a": x, "b": x[:, :10]} for x in data), small("topk", steps=3), place={"layer": 4})
    assert {name: d.config.d_in for name, d in sites.items()} == {"a": 24, "b": 10}
    assert sites["a"].config.layer == 4


def test_streams_that_cannot_be_trained_on() -> None:
    x = torch.randn(600, 8)
    config = small("topk", steps=10)
    for stream, message in (
        ([], "the stream ended with 0 inputs"),
        ((chunk for chunk in x.split(300)), "give more, or lower steps or batch_size"),
        ([x.clone().index_fill_(0, torch.tensor([3]), float("nan"))], "activations hold NaN"),
        ([x[None]], r"activations of shape \[1, 600, 8\]"),
        ([{"a": x, "b": x[1:]}], "the same n at every site"),
    ):
        with pytest.raises(MicrotomeError, match=message):
            fit(stream, config)  # pyright: ignore
    with pytest.raises(MicrotomeError, match="activations: a int; give a tensor"):
        next(TensorSource(7).chunks(0))
    with pytest.raises(MicrotomeError, match="k=50: there are only 16 features"):
        fit(x, DictionaryTraining(k=50, expansion=2, batch_size=100))
    with pytest.raises(Diverged, match="use a smaller lr"):
        fit(x * 1e30, small("relu", normalise=False))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"architecture": "groupmax"}, "can be read, not trained"),
        ({"k": 9, "n_features": 8}, "only n_features=8"),
        ({"prefixes": [4]}, "only matryoshka has them"),
        ({"lr_warmup_pct": 0.9, "lr_decay_pct": 0.2}, "exceed 1"),
        ({"n_feature": 8}, "did you mean n_features"),
    ],
)
def test_configurations_that_cannot_be(values, message: str) -> None:
    with pytest.raises(MicrotomeError, match=message):
        DictionaryTraining.from_mapping(values)


def test_learning_rate_goes_up_and_comes_down() -> None:
    config = DictionaryTraining(steps=100, lr_warmup_pct=0.1, lr_decay_pct=0.2)
    factors = [config.rate_factor(step) for step in range(100)]
    assert factors[0] == pytest.approx(0.1) and factors[9:81] == [1.0] * 72
    assert factors[90] == pytest.approx(0.5) and factors[99] == pytest.approx(0.05)


def test_a_block_is_served_once_and_mixed() -> None:
    x = torch.arange(40.0)[:, None]
    batches = ShuffledBatches(TensorSource(x, chunk=10), 4, seed=0, buffer=20)
    first = torch.cat([batches.next()["activations"] for _ in range(5)])[:, 0]
    assert sorted(first.tolist()) == list(range(20)) and first.tolist() != sorted(first.tolist())
    second = torch.cat([batches.next()["activations"] for _ in range(5)])[:, 0]
    assert sorted(second.tolist()) == list(range(20, 40))
    there = batches.state()
    expected = [batches.next()["activations"] for _ in range(7)]
    again = ShuffledBatches(TensorSource(x, chunk=10), 4, seed=0, buffer=20)
    again.restore(there)
    assert all(torch.equal(again.next()["activations"], batch) for batch in expected)


# -- carrying on


@pytest.mark.parametrize("architecture", ["batch_topk", "matryoshka", "relu", "jumprelu"])
def test_carrying_on_is_bit_for_bit(architecture: str, tmp_path: Path) -> None:
    data = SMALL.stream(200, 9)
    config = small(architecture, steps=30, print_freq=5, save_freq=7, dead_after=700, resample=(0.4,))

    def loop(folder: str) -> TrainingLoop:
        path = tmp_path / folder
        exists = path.exists()
        run = RunFolder(path) if exists else RunFolder.create(path, config, kind="dictionary")
        return TrainingLoop(TensorSource(data), config, run=run, show=False)

    whole = loop("whole")
    expected = whole.train()["activations"]
    stopped = loop("stopped")
    real = stopped.trainers["activations"].step
    calls = iter(range(100))

    def killed(x):
        if next(calls) == 17:
            raise RuntimeError("killed")
        return real(x)

    stopped.trainers["activations"].step = killed  # pyright: ignore
    with pytest.raises(RuntimeError):
        stopped.train()
    resumed = loop("stopped")
    checkpoint = RunFolder(tmp_path / "stopped").latest_checkpoint()
    assert checkpoint is not None and checkpoint[0] == 14
    resumed.restore(*checkpoint)
    found = resumed.train()["activations"]
    for name, value in expected.named_parameters():
        assert torch.equal(found.get_parameter(name), value), name
    assert RunFolder(tmp_path / "stopped").metrics() == RunFolder(tmp_path / "whole").metrics()


def test_a_checkpoint_of_another_configuration(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", small("topk"), kind="dictionary")
    TrainingLoop(TensorSource(torch.randn(600, 8)), small("topk", steps=1), run=run, show=False).train()
    other = TrainingLoop(TensorSource(torch.randn(600, 8)), small("topk", n_features=64), show=False)
    checkpoint = run.latest_checkpoint()
    assert checkpoint is not None
    with pytest.raises(MicrotomeError, match=r"undo the changes to config\.yaml"):
        other.restore(*checkpoint)


# -- several processes


def test_two_processes_equal_one(tmp_path: Path) -> None:
    script = Path(__file__).with_name("two_dictionary_processes.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    launch = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    done = subprocess.run(
        [*launch, str(script), str(tmp_path)], capture_output=True, text=True, env=environment, timeout=180
    )
    assert done.returncode == 0, done.stderr[-3000:]
    from two_dictionary_processes import ARCHITECTURES, settings, train

    for architecture in ARCHITECTURES:
        found = [torch.load(tmp_path / f"{architecture}{rank}.pt", weights_only=True) for rank in (0, 1)]
        for name, value in train(settings(architecture), 0, 1).items():
            assert torch.equal(found[0][name], found[1][name]), (architecture, name)
            torch.testing.assert_close(found[0][name], value, atol=2e-4, rtol=1e-3)
