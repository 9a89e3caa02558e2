"""Files of tensors: never run code, and say in one line what is wrong."""

import os
import pickle

import pytest
import torch

from microtome.core.errors import CannotLoad
from microtome.core.tensor_files import load_state_dict, read_safetensors, write_safetensors, write_torch


class Bomb:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def refusal(path):
    with pytest.raises(CannotLoad) as caught:
        load_state_dict(path)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    return text


@pytest.mark.parametrize("name", ["a.pth", "a.pt", "a.safetensors"])
def test_what_is_written_reads_back(tmp_path, name):
    state = {"w": torch.randn(3, 4).T, "n": torch.tensor(2), "h": torch.ones(2, dtype=torch.float16)}
    write = write_safetensors if name.endswith("safetensors") else write_torch
    write(tmp_path / name, state, *([{}] if name.endswith("safetensors") else []))
    back = load_state_dict(tmp_path / name)
    assert {key: (value.dtype, value.tolist()) for key, value in back.items()} == {
        key: (value.dtype, value.tolist()) for key, value in state.items()
    }


@pytest.mark.parametrize("old_format", [False, True])
def test_a_pickle_that_carries_code_is_refused_and_never_run(tmp_path, old_format):
    torch.save(
        {"w": Bomb(tmp_path / "ran")}, tmp_path / "a.pth", _use_new_zipfile_serialization=not old_format
    )
    assert "carries code" in refusal(tmp_path / "a.pth")
    assert not (tmp_path / "ran").exists()


def test_a_bare_pickle_that_carries_code_is_never_run(tmp_path):
    (tmp_path / "a.pth").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    refusal(tmp_path / "a.pth")
    assert not (tmp_path / "ran").exists()


def test_a_whole_pickled_module_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "a.pth")
    assert "model.state_dict()" in refusal(tmp_path / "a.pth")


def test_missing_and_folders(tmp_path):
    assert "no such file" in refusal(tmp_path / "none.pth")
    assert "a folder" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
@pytest.mark.parametrize("kept", [0, 1, 10, 0.5, 0.99])
def test_truncated(tmp_path, name, kept):
    write = write_safetensors if name.endswith("safetensors") else write_torch
    path = write(tmp_path / name, {"w": torch.randn(50, 50)}, *([{}] if name.endswith("safetensors") else []))
    whole = path.read_bytes()
    path.write_bytes(whole[: kept if isinstance(kept, int) else int(len(whole) * kept)])
    assert "truncated" in refusal(path)


def test_garbage(tmp_path):
    (tmp_path / "a.pth").write_text("this is a letter, not a checkpoint")
    assert "not a torch file" in refusal(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.ones(2), "holds a Tensor"),
        ([torch.ones(2)], "holds a list"),
        ({"w": torch.ones(2), "epoch": 3}, "'epoch' is not a tensor"),
        ({"model": {"w": torch.ones(2)}}, "'model' is not a tensor"),
    ],
)
def test_anything_but_named_tensors(tmp_path, content, message):
    torch.save(content, tmp_path / "a.pth")
    assert message in refusal(tmp_path / "a.pth")


def test_a_state_dict_inside_a_state_dict_key(tmp_path):
    torch.save({"state_dict": {"w": torch.ones(2)}}, tmp_path / "a.pth")
    assert list(load_state_dict(tmp_path / "a.pth")) == ["w"]


def test_safetensors_carry_their_extra_as_json(tmp_path):
    write_safetensors(tmp_path / "a.safetensors", {"w": torch.ones(2)}, {"step": 3})
    assert read_safetensors(tmp_path / "a.safetensors")[1] == {"extra": '{"step": 3}'}
