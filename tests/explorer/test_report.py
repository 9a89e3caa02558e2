"""The report is one file: everything inside, everything escaped, small, readable without a mouse."""

import io
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from microtome.core.config import Config
from microtome.core.errors import CannotLoad, MicrotomeError
from microtome.core.runs import RunFolder
from microtome.explorer.page import format_value
from microtome.explorer.page_images import fit_images, load_image
from microtome.explorer.report import Report, write_report
from microtome.plotting.style import panels

HOSTILE = "<script>alert(\"x\")</script> & 'quotes'"


class Page(HTMLParser):
    """Elements, attributes and words of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture
def png(tmp_path):
    path = tmp_path / "picture.png"
    Image.new("RGB", (300, 150), "white").save(path)
    return path


def full_report(png):
    figure, axes = panels()
    axes[0, 0].plot([0, 1])
    return (
        Report(f"Title {HOSTILE}", f"Intro {HOSTILE}")
        .section(f"One {HOSTILE}", f"Text {HOSTILE}")
        .table(
            f"Caption {HOSTILE}", [{f"key {HOSTILE}": f"cell {HOSTILE}", "n": 1.0}], note=f"Note {HOSTILE}"
        )
        .section("Two")
        .picture(png, f"Seen {HOSTILE}", f"Alt {HOSTILE}")
        .picture(figure, "A figure")
        .section("Three")
        .verdict(f"Verdict {HOSTILE}", good=False)
        .commands([f"microtome demo {HOSTILE}"])
        .footer(f"Footer {HOSTILE}")
    )


def test_every_value_is_escaped(png):
    text = full_report(png).html()
    assert "<script" not in text
    page = Page(text)
    shown = " ".join(page.words)
    for part in (
        "Title",
        "Intro",
        "Text",
        "Caption",
        "cell",
        "Note",
        "Seen",
        "Verdict",
        "microtome demo",
        "Footer",
    ):
        assert f"{part} {HOSTILE}" in shown
    assert page.all("img")[0]["alt"] == f"Alt {HOSTILE}"


def test_the_page_needs_nothing_but_itself(png):
    text = full_report(png).html()
    page = Page(text)
    assert not page.all("script") and not page.all("link")
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.all("img"))
    assert all(anchor["href"].startswith("#section-") for anchor in page.all("a"))
    assert "http:" not in text and "https:" not in text and "url(" not in text and "@import" not in text
    policy = next(meta for meta in page.all("meta") if "http-equiv" in meta)
    assert policy["content"].startswith("default-src 'none'")


def test_the_page_is_accessible_and_fits_a_phone(png):
    page = Page(full_report(png).html())
    assert page.all("html") == [{"lang": "en"}]
    assert any(meta.get("name") == "viewport" for meta in page.all("meta"))
    assert all(image["alt"] and int(image["width"]) and int(image["height"]) for image in page.all("img"))
    assert all(cell["scope"] in ("col", "row") for cell in page.all("th"))
    assert [a["href"][1:] for a in page.all("a")] == [h["id"] for h in page.all("h2")]
    css = full_report(png).html()
    assert "prefers-color-scheme: dark" in css and "overflow-x: auto" in css


def test_tables_take_all_columns_and_align_numbers():
    rows = [
        {"method": "SPD", "MMCS": "1.000 ± 0.001", "alive": 5},
        {"method": "APD", "alive": None, "extra": True},
    ]
    page = Page(Report("t").table("c", rows).html())
    heads = [cell for cell in page.all("th") if cell["scope"] == "col"]
    assert len(heads) == 4
    assert [cell.get("class") for cell in heads] == [None, "number", "number", None]
    assert page.words.count("–") == 3
    assert "yes" in page.words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (float("inf"), "∞"),
        (True, "yes"),
        (0, "0"),
        (1797, "1\u202f797"),
        (0.99871, "0.9987"),
        (1.0, "1.000"),
        (0.0, "0.000"),
        (12.3456, "12.35"),
        (-3.2e-5, "-3.20e-05"),
        (np.float32(0.5), "0.5000"),
        (np.int64(1234), "1\u202f234"),
        ("words", "words"),
    ],
)
def test_values_are_rounded_to_what_can_be_read(value, words):
    assert format_value(value) == words


def test_many_pictures_stay_under_the_limit(tmp_path):
    rng = np.random.default_rng(0)
    noisy = []
    for i in range(3):
        path = tmp_path / f"{i}.png"
        Image.fromarray(rng.integers(0, 255, (100, 1000, 3), dtype=np.uint8)).save(path)
        noisy.append(load_image(path))
    limit = 300_000
    fitted = fit_images(noisy, limit)
    assert sum(len(image.data_uri()) for image in fitted) < limit < sum(len(i.data_uri()) for i in noisy)
    assert all(image.width >= 400 for image in fitted)
    small = [load_image(tmp_path / "0.png")]
    assert fit_images(small, 10**9) == small
    report = Report("t")
    for i in range(3):
        report.picture(tmp_path / f"{i}.png", "noise")
    assert len(report.html(max_bytes=limit)) < limit


def test_pictures_that_are_none_are_refused(tmp_path):
    with pytest.raises(MicrotomeError, match="cannot be read"):
        Report("t").picture(tmp_path / "missing.png", "c")
    (tmp_path / "words.png").write_text("no picture")
    with pytest.raises(MicrotomeError, match="no PNG or JPEG"):
        Report("t").picture(tmp_path / "words.png", "c")
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, format="GIF")
    (tmp_path / "a.gif").write_bytes(buffer.getvalue())
    with pytest.raises(MicrotomeError, match="no PNG or JPEG"):
        Report("t").picture(tmp_path / "a.gif", "c")


def test_writing_is_whole_or_not_at_all(tmp_path):
    path = Report("Title").text("Words\n\nMore").write(tmp_path / "deep" / "report.html")
    assert path.read_text(encoding="utf-8").count("<p>") == 2
    with pytest.raises(MicrotomeError, match="is a folder"):
        Report("Title").write(tmp_path)


class Settings(Config):
    """A configuration, for the folder's sake."""

    steps: int = 10


def test_a_run_folder_becomes_a_report(tmp_path, png):
    run = RunFolder.create(
        tmp_path / "run", Settings(), kind="decompose-spd", command=["microtome", "decompose"]
    )
    (run.path / "plots").mkdir()
    for name in ("loss_curves", "loss_curves_s50", "tms_combined_diagram", "own_drawing"):
        (run.path / "plots" / f"{name}.png").write_bytes(png.read_bytes())
    unfinished = write_report(run).read_text(encoding="utf-8")
    assert "has not finished" in unfinished
    run.finish(
        {"mmcs": 0.9987, "alive": {"linear1": 5}, "seeds": [{"seed": 0, "mmcs": 1.0}], "l0": [1.0, 2.0]}
    )
    page = Page(write_report(run.path, tmp_path / "r.html").read_text(encoding="utf-8"))
    assert [image["alt"].split(":")[0] for image in page.all("img")] == [
        "tms_combined_diagram",
        "loss_curves",
        "own_drawing",
    ]
    words = page.words
    assert {"1.500", "0.7071", "1.000, 2.000"} <= set(words)
    assert {"mmcs", "0.9987", "alive.linear1", "microtome decompose", "steps"} <= set(words)
    with pytest.raises(CannotLoad):
        write_report(tmp_path / "nowhere")


def test_pictures_at_the_root_of_a_run_and_no_more_than_can_be_read(tmp_path):
    run = RunFolder.create(tmp_path / "run", Config(), kind="magnitude")
    for i in range(45):
        Image.new("RGB", (30, 15), "white").save(run.path / f"unified_grid_feature_{i}_a.png")
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert len(page.all("img")) == 40
    assert any("5 more are in" in words for words in page.words)
