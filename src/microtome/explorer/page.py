"""One self-contained HTML page: text, tables and pictures, no scripts, nothing fetched from anywhere."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from numbers import Integral
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from microtome.core.atomic import write_text
from microtome.core.errors import bad_value
from microtome.explorer.page_images import PageImage, fit_images, load_image

MAX_BYTES = 5_000_000
# Pictures wider than this scroll sideways on a phone rather than shrink until nothing can be read.
WIDE_PIXELS = 1100


class Report:
    """A page that is built from top to bottom and written at the end.

    Every method escapes what it is given and returns the report, so that calls can be chained.
    """

    def __init__(self, title: str, intro: str = "") -> None:
        self.title = title
        self.intro = intro
        self._blocks: list[str | _Picture] = []
        self._sections: list[tuple[str, str]] = []
        self._footer = ""

    def section(self, title: str, text: str = "") -> "Report":
        """Start a section: a heading that the page's contents link to, and an optional paragraph."""
        anchor = f"section-{len(self._sections) + 1}"
        self._sections.append((anchor, title))
        self._blocks.append(f'<h2 id="{anchor}">{escape(title)}</h2>')
        return self.text(text) if text else self

    def text(self, *paragraphs: str) -> "Report":
        """Add paragraphs; an empty line inside one splits it."""
        for paragraph in "\n\n".join(paragraphs).split("\n\n"):
            if paragraph.strip():
                self._blocks.append(f"<p>{escape(paragraph.strip())}</p>")
        return self

    def verdict(self, text: str, good: bool = True) -> "Report":
        """Add one sentence that stands out, such as "recovered 5 of 5 mechanisms"."""
        kind = "verdict" if good else "verdict short"
        self._blocks.append(f'<p class="{kind}">{escape(text)}</p>')
        return self

    def table(self, caption: str, rows: Sequence[Mapping[str, Any]], note: str = "") -> "Report":
        """Add a table; columns are the rows' keys in order of appearance, the first one names the row.

        Numbers are aligned right and rounded to four significant digits; None and nan become a dash.
        """
        columns = list(dict.fromkeys(key for row in rows for key in row))
        numeric = {column for column in columns if _is_numeric([row.get(column) for row in rows])}
        head = "".join(f'<th scope="col"{_number_class(c in numeric)}>{escape(str(c))}</th>' for c in columns)
        body = "".join(f"<tr>{_row(row, columns, numeric)}</tr>" for row in rows)
        self._blocks.append(
            f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}">'
            f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>"
            f"<tbody>{body}</tbody></table></div>"
        )
        if note:
            self._blocks.append(f'<p class="note">{escape(note)}</p>')
        return self

    def picture(self, picture: str | Path | Figure, caption: str, alt: str | None = None) -> "Report":
        """Add a PNG or JPEG file, or a figure. ``alt`` says what is seen (default: the caption).

        Raises ``MicrotomeError`` when the file is missing or no picture.
        """
        self._blocks.append(_Picture(load_image(picture), caption, alt or caption))
        return self

    def commands(self, commands: Iterable[str]) -> "Report":
        """Add shell commands, each in a block that one click selects whole."""
        for command in commands:
            self._blocks.append(f"<pre><code>{escape(command)}</code></pre>")
        return self

    def footer(self, text: str) -> "Report":
        """Set the small print at the end: versions, seed, command line."""
        self._footer = text
        return self

    def html(self, max_bytes: int = MAX_BYTES) -> str:
        """The whole page. Pictures are compressed as far as is needed to stay below ``max_bytes``."""
        pictures = [block for block in self._blocks if isinstance(block, _Picture)]
        words = sum(len(block) for block in self._blocks if isinstance(block, str)) + 20_000
        images = iter(fit_images([p.image for p in pictures], max_bytes - words))
        body = "\n".join(b.html(next(images)) if isinstance(b, _Picture) else b for b in self._blocks)
        links = "".join(f'<a href="#{anchor}">{escape(title)}</a> ' for anchor, title in self._sections)
        contents = f'<nav aria-label="Contents">{links}</nav>' if len(self._sections) > 2 else ""
        paragraphs = [paragraph.strip() for paragraph in self.intro.split("\n\n")]
        intro = "".join(f'<p class="intro">{escape(words)}</p>' for words in paragraphs if words)
        footer = f"<footer>{escape(self._footer)}</footer>" if self._footer else ""
        return _PAGE.format(
            title=escape(self.title),
            style=files("microtome.explorer").joinpath("static/report.css").read_text(encoding="utf-8"),
            intro=intro,
            contents=contents,
            body=body,
            footer=footer,
        )

    def write(self, path: str | Path) -> Path:
        """Write the page to ``path`` (one file, atomically). Raises ``MicrotomeError`` when it cannot."""
        path = Path(path)
        if path.is_dir():
            raise bad_value("path", str(path), "is a folder", "name a file such as report.html")
        return write_text(path, self.html())


class _Picture:
    def __init__(self, image: PageImage, caption: str, alt: str) -> None:
        self.image, self.caption, self.alt = image, caption, alt

    def html(self, image: PageImage) -> str:
        # Width on the page: the pictures are drawn at 150 dots an inch, a page has 96.
        width = round(self.image.width * 96 / 150)
        wide = ' class="wide" tabindex="0"' if self.image.width > WIDE_PIXELS else ""
        return (
            f'<figure><div{wide}><img src="{image.data_uri()}" alt="{escape(self.alt)}" '
            f'width="{width}" height="{round(self.image.height * 96 / 150)}"></div>'
            f"<figcaption>{escape(self.caption)}</figcaption></figure>"
        )


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and (isinstance(value, int | float) or hasattr(value, "__float__"))


# Words that stand in a column of numbers: "0.998 ± 0.001", "97.5 %", "5 / 5".
_NUMBER_WORDS = re.compile(r"[−-]?[\d.,]+(e[+-]?\d+)?( ?(±|/|\+-) ?[\d.]+(e[+-]?\d+)?)?( ?%)?|–|")


def _is_numeric(values: list[Any]) -> bool:
    """Whether a column holds numbers, or words that read as numbers, and nothing else."""
    known = [value for value in values if value is not None]
    return bool(known) and all(
        _is_number(value) or (isinstance(value, str) and _NUMBER_WORDS.fullmatch(value)) for value in known
    )


def _number_class(numeric: bool) -> str:
    return ' class="number"' if numeric else ""


def format_value(value: Any) -> str:
    """A cell's words: four significant digits, thousands apart, a dash for what is not there."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not _is_number(value):
        return str(value)
    if isinstance(value, Integral):
        return f"{int(value):,}".replace(",", "\u202f")
    number = float(value)
    if math.isnan(number):
        return "–"
    if math.isinf(number):
        return "∞" if number > 0 else "−∞"
    small = number != 0 and (abs(number) < 1e-3 or abs(number) >= 1e6)
    return f"{number:.2e}" if small else f"{number:.{max(0, 3 - math.floor(math.log10(abs(number) or 1)))}f}"


def _row(row: Mapping[str, Any], columns: Sequence[str], numeric: set[str]) -> str:
    cells = []
    for index, column in enumerate(columns):
        words = escape(format_value(row.get(column)))
        if index == 0:
            cells.append(f'<th scope="row"{_number_class(column in numeric)}>{words}</th>')
        else:
            cells.append(f"<td{_number_class(column in numeric)}>{words}</td>")
    return "".join(cells)


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
      content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<main>
<header>
<h1>{title}</h1>
{intro}
{contents}
</header>
{body}
{footer}
</main>
</body>
</html>
"""
