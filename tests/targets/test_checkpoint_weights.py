"""Weights out of other people's checkpoints."""

import argparse
import os
import pickle
import re
import warnings

import numpy as np
import pytest
import torch
from own_networks import SmallNet
from safetensors.torch import save_file
from torch import nn

from microtome.core.errors import CannotLoad
from microtome.targets.checkpoints import load_weights, read_weights, without_wrappers


class RunsCode:
    """Unpickling this would make a folder."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.fixture
def state():
    return nn.Linear(3, 2).state_dict()


def same(found, state):
    assert set(found) == set(state)
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_a_training_checkpoint_of_the_originals(tmp_path, state):
    layer = nn.Linear(3, 2)
    layer.load_state_dict(state)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    saved = {
        "epoch": 3,
        "model_state_dict": state,
        "maml_state_dict": {f"module.{name}": value + 1 for name, value in state.items()},
        "optimizer_state_dict": optimizer.state_dict(),
        "train_loss": 0.1,
        "val_acc": np.float64(0.7),
        "best": [np.float32(1), np.int64(2), np.bool_(True)],
        "args": argparse.Namespace(seed=3, out="x"),
    }
    torch.save(saved, tmp_path / "a.pt")
    torch.save(saved, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    same(read_weights(tmp_path / "a.pt"), state)
    same(read_weights(tmp_path / "old.pt"), state)


@pytest.mark.parametrize("key", [None, "state_dict", "model", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_nested_dictionaries_and_prefixes(tmp_path, state, key, prefix):
    names = {prefix + name: value for name, value in state.items()}
    torch.save(names if key is None else {key: names, "epoch": 1}, tmp_path / "a.pth")
    same(read_weights(tmp_path / "a.pth"), state)


def test_safetensors_and_torchscript(tmp_path, state):
    save_file({f"module.{name}": value for name, value in state.items()}, tmp_path / "a.safetensors")
    same(read_weights(tmp_path / "a.safetensors"), state)
    layer = nn.Linear(3, 2)
    layer.load_state_dict(state)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(layer).save(tmp_path / "script.pt")
    same(read_weights(tmp_path / "script.pt"), state)


def test_a_prefix_of_some_names_only_stays():
    names = {"module.a": torch.zeros(1), "b": torch.zeros(1)}
    assert set(without_wrappers(names)) == {"module.a", "b"}


@pytest.mark.parametrize("where", ["beside", "whole", "bare", "old"])
def test_a_pickle_that_runs_code_is_refused_and_named(tmp_path, state, where):
    marker = tmp_path / "ran"
    path = tmp_path / "a.pt"
    evil = RunsCode(marker)
    if where == "bare":
        path.write_bytes(pickle.dumps({"x": evil}))
    elif where == "old":
        torch.save({"model_state_dict": state, "x": evil}, path, _use_new_zipfile_serialization=False)
    else:
        torch.save({"model": state, "x": evil} if where == "beside" else evil, path)
    with pytest.raises(CannotLoad, match=r"posix\.mkdir|nt\.mkdir|os\.mkdir"):
        read_weights(path)
    assert not marker.exists()


def test_a_whole_pickled_module_is_refused_and_named(tmp_path):
    torch.save(SmallNet(), tmp_path / "a.pt")
    with pytest.raises(CannotLoad, match=r"own_networks\.SmallNet.*model\.state_dict\(\)"):
        read_weights(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("saved", "told"),
    [
        ([1, 2], "a list, not named tensors"),
        ({"model": {"a": 1}}, "no state dictionary in it \\(there are a\\)"),
        ({}, "no tensors"),
        ({"w": torch.tensor([1.0, float("nan")]), "v": torch.ones(1)}, "NaN or infinity in w;"),
        ({"w": torch.tensor([float("inf")])}, "NaN or infinity in w;"),
    ],
)
def test_what_is_no_weights_is_told(tmp_path, saved, told):
    torch.save(saved, tmp_path / "a.pt")
    with pytest.raises(CannotLoad, match=told) as caught:
        read_weights(tmp_path / "a.pt")
    assert "\n" not in str(caught.value)


def test_missing_truncated_and_empty_files_are_told(tmp_path, state):
    with pytest.raises(CannotLoad, match="no such file"):
        read_weights(tmp_path / "none.pt")
    torch.save(state, tmp_path / "a.pt")
    whole = (tmp_path / "a.pt").read_bytes()
    for i, content in enumerate((whole[: len(whole) // 2], b"", b"hello")):
        (tmp_path / f"cut{i}.pt").write_bytes(content)
        with pytest.raises(CannotLoad, match="truncated or not a torch file") as caught:
            read_weights(tmp_path / f"cut{i}.pt")
        assert "\n" not in str(caught.value)


# -- into a module


def test_weights_are_copied_whatever_the_prefix():
    source, target = SmallNet(), SmallNet()
    bare = {name.removeprefix("model."): value for name, value in source.state_dict().items()}
    for state in (source.state_dict(), bare, {f"net.{n}": v for n, v in source.state_dict().items()}):
        target = SmallNet()
        load_weights(target, state, "a.pt")
        same(target.state_dict(), source.state_dict())


def test_missing_extra_and_misshapen_weights_are_listed():
    state = SmallNet().state_dict()
    del state["model.0.bias"]
    state["extra.weight"] = torch.zeros(1)
    state["model.3.weight"] = torch.zeros(3, 5)
    with pytest.raises(CannotLoad) as caught:
        load_weights(SmallNet(), state, "a.pt")
    told = str(caught.value)
    assert re.search(r"misses model\.0\.bias", told)
    assert re.search(r"adds extra\.weight", told)
    assert re.search(r"model\.3\.weight \[3, 5\] for \[3, 256\]", told)
    assert "--architecture" in told and "\n" not in told


def test_counters_of_batch_norm_may_be_missing():
    norm = nn.BatchNorm2d(2)
    state = {name: value + 1 for name, value in norm.state_dict().items() if "num_batches" not in name}
    load_weights(norm, state, "a.pt")
    assert norm.running_mean is not None and norm.running_mean.tolist() == [1, 1]


def test_lazy_layers_take_the_shapes_of_the_checkpoint():
    torch.manual_seed(1)
    source, target = SmallNet(), SmallNet(lazy=True)
    load_weights(target, source.state_dict(), "a.pt")
    assert type(target.model[3]) is nn.Linear and target.model[3].in_features == 256
    x = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(target(x), source(x))
