"""The one parser of model references."""

import string
import sys
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microtome.core.config import Config
from microtome.core.errors import CannotLoad, MicrotomeError
from microtome.core.references import ModelReference, open_run, parse_reference
from microtome.core.runs import RunFolder
from microtome.core.wandb_files import fetch_wandb, newest


def wandb_parts(text, **more):
    reference = parse_reference(text, **more)
    assert reference.kind == "wandb"
    return reference.entity, reference.project, reference.run_id


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("wandb:abc", (None, None, "abc")),
        ("wandb:proj/abc", (None, "proj", "abc")),
        ("wandb:proj/runs/abc", (None, "proj", "abc")),
        ("wandb:ent/proj/abc", ("ent", "proj", "abc")),
        ("wandb:ent/proj/runs/abc", ("ent", "proj", "abc")),
        ("https://wandb.ai/ent/proj/runs/abc", ("ent", "proj", "abc")),
        ("https://wandb.ai/ent/proj/runs/abc/overview?nw=nwuser", ("ent", "proj", "abc")),
        ("https://www.wandb.ai/ent/proj/runs/abc/", ("ent", "proj", "abc")),
    ],
)
def test_wandb(text, expected):
    assert wandb_parts(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "wandb:",
        "wandb:a//b",
        "wandb:a/b/c/d",
        "wandb:a b",
        "https://wandb.ai/",
        "https://wandb.ai/ent/proj",
        "https://wandb.ai/ent/proj/sweeps/abc",
        "hf:",
        "hf:a/b/c",
        "nothing/here.pth",
        "some.module:",
        "a\0b",
        "x" * 5000,
    ],
)
def test_bad_forms_are_one_line(tmp_path, text):
    with pytest.raises(CannotLoad) as caught:
        parse_reference(text, runs_root=tmp_path)
    assert "\n" not in str(caught.value)


def test_hugging_face_and_python():
    assert parse_reference("hf:gpt2").name == "gpt2"
    assert parse_reference("hf:openai/gpt-2.x").name == "openai/gpt-2.x"
    assert parse_reference("my.package:Model") == ModelReference(
        "python", "my.package:Model", name="my.package:Model"
    )


part = st.text(string.ascii_letters + string.digits + "-_.", min_size=1, max_size=12).filter(
    lambda text: text != "runs"
)


@given(st.lists(part, min_size=1, max_size=3), st.booleans())
def test_every_spelling_of_a_wandb_run_is_the_same_reference(parts, spelled_out):
    words = [*parts[:-1], "runs", parts[-1]] if spelled_out and len(parts) > 1 else parts
    found = wandb_parts("wandb:" + "/".join(words))
    assert found == tuple([None] * (3 - len(parts)) + parts)
    assert wandb_parts(str(parse_reference("wandb:" + "/".join(words)))) == found


@given(st.text(max_size=40))
def test_any_text_is_a_reference_or_one_line(text):
    try:
        reference = parse_reference(text, runs_root="no-such-folder")
    except MicrotomeError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert reference.kind in ("run", "checkpoint", "wandb", "hf", "python")


def make_run(path, kind="train-tms"):
    return RunFolder.create(path, Config(), kind=kind)


def test_runs_by_path_by_name_and_latest(tmp_path):
    train = make_run(tmp_path / "runs" / "one")
    spd = make_run(tmp_path / "runs" / "two", "decompose-spd")
    root = tmp_path / "runs"
    assert parse_reference(train.path).path == train.path
    assert parse_reference("one", runs_root=root) == ModelReference("run", "one", path=train.path)
    assert parse_reference("latest", runs_root=root).path == spd.path
    assert parse_reference("latest", runs_root=root, want="train").path == train.path
    with pytest.raises(CannotLoad, match=r"did you mean .*two\?"):
        parse_reference("twoo", runs_root=root)
    with pytest.raises(CannotLoad, match="no magnitude run"):
        parse_reference("latest", runs_root=root, want="magnitude")
    assert open_run("two", runs_root=root).kind == "decompose-spd"


def test_checkpoint_files_and_the_folder_that_named_them(tmp_path):
    (tmp_path / "configs").mkdir()
    file = tmp_path / "configs" / "tms.pth"
    file.touch()
    assert parse_reference(str(file)) == ModelReference("checkpoint", str(file), path=file)
    assert parse_reference("tms.pth", relative_to=tmp_path / "configs").path == file
    with pytest.raises(CannotLoad, match="no such run or file"):
        parse_reference("tms.pth", runs_root=tmp_path)
    (tmp_path / "a.txt").touch()
    with pytest.raises(CannotLoad, match="not a checkpoint"):
        parse_reference(tmp_path / "a.txt")
    with pytest.raises(CannotLoad, match="a checkpoint reference, not a run folder"):
        open_run(file)


def test_folders_of_other_code(tmp_path):
    with pytest.raises(CannotLoad, match="neither a run folder"):
        parse_reference(tmp_path)
    (tmp_path / "tms.pth").touch()
    assert parse_reference(tmp_path).path == tmp_path / "tms.pth"
    (tmp_path / "other.pth").touch()
    with pytest.raises(CannotLoad, match="holds 2 checkpoints"):
        parse_reference(tmp_path)
    for step in (9, 100, 20):
        (tmp_path / f"spd_model_{step}.pth").touch()
    assert parse_reference(tmp_path).path == tmp_path / "spd_model_100.pth"


# -- W&B without W&B


class FakeFile:
    def __init__(self, name, fails=False):
        self.name, self.fails = name, fails

    def download(self, root, replace):
        path = f"{root}/{self.name}"
        with open(path, "w") as file:  # noqa: PTH123
            file.write("half" if self.fails else "whole")
        if self.fails:
            raise RuntimeError("connection lost\nmany lines")


@pytest.fixture
def fake_wandb(monkeypatch):
    calls = []
    module = types.ModuleType("wandb")
    module.files = [FakeFile("tms.pth"), FakeFile("final_config.yaml")]  # pyright: ignore

    class Api:
        def run(self, address):
            calls.append(address)
            return types.SimpleNamespace(files=lambda: module.files)

    module.Api = Api  # pyright: ignore
    module.calls = calls  # pyright: ignore
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_ENTITY", raising=False)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return module


def test_wandb_not_installed_names_the_pip_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MicrotomeError, match=r"pip install 'microtome\[wandb\]'"):
        fetch_wandb(parse_reference("wandb:e/p/id"), tmp_path)


def test_a_fetched_run_is_kept(tmp_path, fake_wandb):
    folder = fetch_wandb(parse_reference("wandb:e/p/runs/id"), tmp_path)
    assert sorted(file.name for file in folder.iterdir()) == ["final_config.yaml", "tms.pth"]
    assert fetch_wandb(parse_reference("https://wandb.ai/e/p/runs/id"), tmp_path) == folder
    assert fake_wandb.calls == ["e/p/id"]


def test_entity_and_project_come_from_the_env_file(tmp_path, fake_wandb, monkeypatch):
    monkeypatch.chdir(tmp_path)
    reference = parse_reference("wandb:id")
    with pytest.raises(CannotLoad, match="names no project"):
        fetch_wandb(reference, tmp_path)
    (tmp_path / ".env").write_text("WANDB_ENTITY=me\nexport WANDB_PROJECT='mine'\nOTHER=1\n")
    # Set and taken away again, so that monkeypatch puts back what the file set.
    monkeypatch.setenv("WANDB_ENTITY", "")
    monkeypatch.setenv("WANDB_PROJECT", "")
    monkeypatch.delenv("WANDB_ENTITY")
    monkeypatch.delenv("WANDB_PROJECT")
    fetch_wandb(reference, tmp_path)
    assert fake_wandb.calls == ["me/mine/id"]


def test_a_download_that_breaks_off_leaves_nothing(tmp_path, fake_wandb):
    fake_wandb.files = [FakeFile("tms.pth"), FakeFile("a.yaml", fails=True)]
    with pytest.raises(CannotLoad, match="broke off") as caught:
        fetch_wandb(parse_reference("wandb:e/p/id"), tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_only_the_newest_checkpoints_and_nothing_outside_the_folder():
    names = [
        "model_5.pth",
        "model_40.pth",
        "model_7.pth",
        "tms.pth",
        "../x.pth",
        "/etc/y.yaml",
        "a.png",
        "c.yaml",
    ]
    assert sorted(file.name for file in newest([FakeFile(name) for name in names])) == [
        "c.yaml",
        "model_40.pth",
        "tms.pth",
    ]
