"""The page of a decomposition's components: what each fires on, searchable, in one file without a network."""

import json
from collections.abc import Iterator, Mapping
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from microtome.core.atomic import write_text
from microtome.core.errors import CannotLoad

LISTS = {
    "tokens_by_importance": "Tokens, by mean causal importance",
    "tokens_by_lift": "Tokens, by lift",
    "predicted_by_probability": "Predicted tokens, by mean probability",
    "predicted_by_lift": "Predicted tokens, by lift",
}
WIDEST = 4096  # numbers of an input that are drawn


def write_examples_page(
    records: str | Path, out: str | Path, title: str, megabytes: float = 20.0, note: str = ""
) -> Path:
    """Write the page of a file that ``decompose examples`` made; at most so many ``megabytes``.

    The components of the largest mean importance come first, and those that do not fit are left out, which
    the page says. Raises ``CannotLoad``.
    """
    words: dict[str, int] = {}
    made: list[tuple[float, str]] = []
    order: list[str] = []
    for record in _records(Path(records)):
        order.append(record["site"])
        made.append((-record["mean_importance"], json.dumps(_compact(record, words), separators=(",", ":"))))
    made.sort(key=lambda one: one[0])
    room = megabytes * 1e6 - 2 * len(json.dumps(list(words))) - 20_000
    shown: list[str] = []
    for _, text in made:
        room -= len(text) + 1
        if room < 0 and shown:
            break
        shown.append(text)
    head = {"words": list(words), "lists": LISTS, "sites": list(dict.fromkeys(order))}
    data = json.dumps(head, separators=(",", ":"))[:-1] + ',"components":[' + ",".join(shown) + "]}"
    left = len(made) - len(shown)
    told = f"{len(shown)} components that fire" + (f", {left} more in {Path(records).name}" if left else "")
    static = files("microtome.explorer").joinpath("static")
    page = _PAGE.format(
        title=escape(title),
        told=escape(f"{told}. {note}".strip()),
        style=static.joinpath("examples.css").read_text(encoding="utf-8"),
        script=static.joinpath("examples.js").read_text(encoding="utf-8"),
        # Inside a script element only "<" could end it or begin a comment.
        data=data.replace("<", "\\u003c"),
    )
    return write_text(out, page)


def _records(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)
    except (OSError, ValueError) as error:
        raise CannotLoad(f"{path}: no examples ({error}); run `microtome decompose examples` again") from None


def _compact(record: Mapping[str, Any], words: dict[str, int]) -> list[Any]:
    """A record as a short list; tokens become numbers of ``words``."""

    def number(word: str) -> int:
        return words.setdefault(word, len(words))

    lists = {
        title: [[number(t["token"]), _short(t["value"]), _short(t["count"])] for t in record[title]]
        for title in LISTS
        if title in record
    }
    partners = [[one["name"], round(one["jaccard"], 2)] for one in record.get("fires_with", [])]
    mean = record.get("mean_input") or []
    return [
        record["site"],
        record["component"],
        _short(record["density"]),
        _short(record["mean_importance"]),
        lists,
        partners,
        [_example(one, number) for one in record["examples"]],
        [_short(v) for v in mean] if len(mean) <= WIDEST else [],
    ]


def _example(one: Mapping[str, Any], number: Any) -> list[Any]:
    where = [one["stratum"], _short(one["activation"]), one["input"], one["position"]]
    if "tokens" in one:
        levels = [round(100 * v) for v in one["importance"]]
        return [*where, one["focus"], [number(word) for word in one["tokens"]], levels]
    values = one["values"] if len(one["values"]) <= WIDEST else []
    return [*where, round(100 * one["importance"]), [_short(v) for v in values]]


def _short(value: float) -> float:
    return float(f"{value:.3g}")


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
      content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p>{told}</p>
</header>
<noscript><p>This page needs JavaScript to show its components; it fetches nothing.</p></noscript>
<div id="columns">
<section id="index" aria-label="Components">
<label>Site <select id="site"></select></label>
<label>Search <input id="search" type="search" placeholder="name, number or token" autocomplete="off"></label>
<label>Order <select id="order">
<option value="importance">mean importance</option><option value="density">density</option>
<option value="name">site and number</option></select></label>
<p id="count" role="status"></p>
<ol id="list"></ol>
</section>
<main id="detail" tabindex="-1" aria-live="polite"></main>
</div>
<script type="application/json" id="data">{data}</script>
<script>
{script}</script>
</body>
</html>
"""
