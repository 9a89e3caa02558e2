"""``microtome view`` writes a page about any run."""

import pytest

from microtome.cli.main import main
from microtome.core.config import Config
from microtome.core.runs import RunFolder


def test_a_page_of_a_run(tmp_path, capsys):
    run = RunFolder.create(tmp_path / "runs" / "one", Config(), kind="magnitude")
    run.finish({"n_features": 3})
    assert main(["view", "one", "--runs_root", str(tmp_path / "runs")]) == 0
    page = run.path / "report.html"
    assert str(page) in capsys.readouterr().out
    assert "n_features" in page.read_text(encoding="utf-8")
    assert main(["view", str(run.path), "--out", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").is_file()


@pytest.mark.parametrize("words", [[], ["one", "two"], ["not-there"]])
def test_no_run(words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["view", *words]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
