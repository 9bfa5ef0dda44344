"""The frame of a page: sections of tables, figures and words, every text escaped, in one file without a server."""

import math
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Literal, NamedTuple, NewType

from cisray import __version__
from cisray.files import written_whole

Markup = NewType("Markup", str)
"""HTML that is safe to put into a page as it stands: only this room makes it."""

PAGE_NAME = "report.html"
NO_VALUE = "–"

STYLE = """
:root { --ink: #22292f; --quiet: #5d6873; --line: #dfe4e8; --accent: #00487c; --paper: #ffffff; }
* { box-sizing: border-box; }
html { background: #f4f6f7; }
body { margin: 0 auto; max-width: 1152px; padding: 2rem 3rem 3rem; background: var(--paper); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { margin: 0; font-size: 1.75rem; font-weight: 600; line-height: 1.25; overflow-wrap: anywhere; }
h2 { margin: 0 0 .2rem; font-size: 1.2rem; font-weight: 600; color: var(--accent); }
.subtitle { margin: .3rem 0 0; color: var(--quiet); overflow-wrap: anywhere; }
nav { margin: 1rem 0 0; padding: .55rem 0; border-top: 1px solid var(--line); border-bottom: 1px solid var(--line);
  font-size: .87rem; }
nav a { margin-right: 1.2rem; color: var(--accent); text-decoration: none; white-space: nowrap; }
nav a:hover { text-decoration: underline; }
section { margin-top: 2.2rem; }
p { margin: .5rem 0; max-width: 100ch; }
.explains { margin: 0 0 .8rem; max-width: 110ch; color: var(--quiet); }
.scroll { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums; }
caption { caption-side: top; padding: 0 0 .35rem; text-align: left; font-weight: 600; }
th, td { padding: .32rem .8rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
thead th { border-bottom: 1px solid #aeb8c1; font-weight: 600; vertical-align: bottom; }
thead th.group { border-bottom: 1px solid var(--line); text-align: center; }
th[scope=row] { position: sticky; left: 0; background: var(--paper); font-weight: 500; }
th:first-child { padding-left: 0; }
.number { text-align: right; white-space: nowrap; }
thead .number { white-space: normal; }
td.text { max-width: 64ch; overflow-wrap: break-word; }
.starts { border-left: 1px solid var(--line); }
dl { display: grid; grid-template-columns: minmax(8rem, max-content) 1fr; gap: .3rem 1.4rem; margin: .8rem 0; }
dt { color: var(--quiet); }
dd { margin: 0; max-width: 84ch; overflow-wrap: anywhere; }
.tiles { display: flex; flex-wrap: wrap; gap: .8rem; margin: .8rem 0; }
.tile { flex: 1 1 9.5rem; padding: .7rem .9rem; border: 1px solid var(--line); border-radius: 6px; }
.tile b { display: block; font-size: 1.5rem; font-weight: 600; line-height: 1.3; overflow-wrap: anywhere; }
.tile span { display: block; font-size: .82rem; color: var(--quiet); }
.callout { margin: .8rem 0; padding: .6rem 1rem; border-left: 4px solid; border-radius: 3px; }
.callout ul { margin: .2rem 0; padding-left: 1.2rem; }
.warning { border-color: #c05200; background: #fdf1e7; }
.note { border-color: #7d97b3; background: #eff4f8; }
.good { border-color: #2f7d6b; background: #edf6f3; }
figure { margin: .8rem 0; }
figure img { display: block; max-width: 100%; height: auto; }
figcaption { margin-top: .3rem; font-size: .87rem; color: var(--quiet); max-width: 110ch; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 1rem 1.2rem; }
.grid figure { margin: 0; }
.grid img { width: 100%; max-width: 336px; }
pre { margin: .6rem 0; padding: .8rem 1rem; overflow-x: auto; background: #f6f8f9; border-radius: 4px;
  font: .8rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
summary { cursor: pointer; color: var(--accent); }
footer { margin-top: 3rem; padding-top: .6rem; border-top: 1px solid var(--line); font-size: .82rem;
  color: var(--quiet); }
@media (max-width: 700px) {
  body { padding: 1.2rem 1rem 2rem; }
  .wide { overflow-x: auto; }
  td.text { min-width: 9rem; }
  .wide img { max-width: none; width: 820px; }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .5rem; }
}
@media print {
  html { background: none; }
  body { max-width: none; padding: 0; font-size: 10.5pt; }
  nav { display: none; }
  h2, caption { break-after: avoid; }
  figure, tr, .callout, .tile { break-inside: avoid; }
  .scroll { overflow: visible; }
  th[scope=row] { position: static; }
  table { font-size: 8pt; }
  th, td { padding: .2rem .4rem; }
}
"""


class Section(NamedTuple):
    """A part of a page under a heading of its own."""

    heading: str
    explains: str
    """One sentence that says what is shown."""
    content: Sequence[Markup]


class Tile(NamedTuple):
    """One headline number."""

    value: object
    label: str
    note: str = ""


def write_page(path: Path, *, title: str, subtitle: str, sections: Sequence[Section]) -> Path:
    """Write one self-contained HTML file, whole or not at all; equal content gives equal bytes."""
    anchors = [_anchor(number, section.heading) for number, section in enumerate(sections)]
    links = "".join(
        f'<a href="#{anchor}">{escape(section.heading)}</a>\n'
        for anchor, section in zip(anchors, sections, strict=True)
    )
    body = "\n".join(_section(anchor, section) for anchor, section in zip(anchors, sections, strict=True))
    html = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f'<header>\n<h1>{escape(title)}</h1>\n<p class="subtitle">{escape(subtitle)}</p>\n</header>\n'
        f"<nav>\n{links}</nav>\n<main>\n{body}\n</main>\n"
        f"<footer>Made by cisray {escape(__version__)}.</footer>\n</body>\n</html>\n"
    )
    with written_whole(path) as aside:
        aside.write_text(html, encoding="utf-8")
    return path


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    caption: str = "",
    groups: Sequence[tuple[str, int]] = (),
) -> Markup:
    """Lay out rows; the first cell of each names it, and columns that hold numbers stand on the right.

    `groups` are headings over neighbouring columns, each with how many columns it spans.
    """
    numeric = [_is_numeric([row[index] for row in rows]) for index in range(len(header))]
    starts = _group_starts(groups)
    classes = [
        " ".join(["number" if number else "text"] + ["starts"] * (index in starts))
        for index, number in enumerate(numeric)
    ]
    parts = ['<div class="scroll"><table>']
    if caption:
        parts.append(f"<caption>{escape(caption)}</caption>")
    parts.append("<thead>")
    if groups:
        cells = "".join(f'<th class="group" colspan="{span}">{escape(name)}</th>' for name, span in groups)
        parts.append(f"<tr>{cells}</tr>")
    heads = "".join(
        f'<th scope="col" class="{kind}">{escape(name)}</th>' for name, kind in zip(header, classes, strict=True)
    )
    parts.append(f"<tr>{heads}</tr></thead>\n<tbody>")
    parts += [_row(row, classes) for row in rows]
    parts.append("</tbody></table></div>")
    return Markup("\n".join(parts))


def facts(pairs: Sequence[tuple[str, object]]) -> Markup:
    """List names and their values."""
    items = "\n".join(f"<dt>{escape(name)}</dt><dd>{escape(number(value))}</dd>" for name, value in pairs)
    return Markup(f"<dl>\n{items}\n</dl>")


def text(words: str) -> Markup:
    """Write one paragraph."""
    return Markup(f"<p>{escape(words)}</p>")


def callout(kind: Literal["warning", "note", "good"], title: str, lines: Sequence[str] = ()) -> Markup:
    """Set a title and its lines apart from the rest of the page."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    listed = f"<ul>{items}</ul>" if items else ""
    return Markup(f'<div class="callout {kind}"><b>{escape(title)}</b>{listed}</div>')


def tiles(numbers: Sequence[Tile]) -> Markup:
    """Show headline numbers side by side."""
    items = "\n".join(
        f'<div class="tile"><b>{escape(number(tile.value))}</b><span>{escape(tile.label)}</span>'
        + (f"<span>{escape(tile.note)}</span>" if tile.note else "")
        + "</div>"
        for tile in numbers
    )
    return Markup(f'<div class="tiles">\n{items}\n</div>')


def grid(items: Sequence[Markup]) -> Markup:
    """Set small figures side by side, as many as the screen holds."""
    return Markup('<div class="grid">\n' + "\n".join(items) + "\n</div>")


def folded(title: str, source: str) -> Markup:
    """Hide a long text behind its title until it is asked for."""
    return Markup(f"<details><summary>{escape(title)}</summary><pre>{escape(source)}</pre></details>")


def number(value: object) -> str:
    """Write a value for a reader: thousands apart, three or four digits that count, a dash where there is none."""
    if value is None:
        return NO_VALUE
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value):
        return NO_VALUE
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e6:
        return f"{value:.3g}"
    magnitude = math.floor(math.log10(abs(value)))
    decimals = 2 - magnitude if magnitude < -1 else 3 - max(0, magnitude)
    return f"{value:,.{max(0, decimals)}f}"


def share(part: float, whole: float) -> str:
    """Write a part of a whole in per cent; a dash for a part of nothing."""
    return f"{part / whole:.1%}" if whole else NO_VALUE


def _section(anchor: str, section: Section) -> str:
    content = "\n".join(section.content)
    return (
        f'<section id="{anchor}">\n<h2>{escape(section.heading)}</h2>\n'
        f'<p class="explains">{escape(section.explains)}</p>\n{content}\n</section>'
    )


def _anchor(index: int, heading: str) -> str:
    """Give a section an id that is unique on its page."""
    return f"s{index}-" + re.sub("[^a-z0-9]+", "-", heading.lower()).strip("-")


def _row(row: Sequence[object], classes: Sequence[str]) -> str:
    first, *rest = (escape(number(value)) for value in row)
    cells = "".join(f'<td class="{kind}">{cell}</td>' for cell, kind in zip(rest, classes[1:], strict=True))
    return f'<tr><th scope="row" class="{classes[0]}">{first}</th>{cells}</tr>'


def _is_numeric(values: Sequence[object]) -> bool:
    """Say whether a column's values are numbers, shares or dashes only."""
    words = [number(value) for value in values]
    return any(word != NO_VALUE for word in words) and all(
        word == NO_VALUE or re.fullmatch(r"[+−-]?[\d,.]+(e[+-]?\d+)?%?", word) for word in words
    )


def _group_starts(groups: Sequence[tuple[str, int]]) -> set[int]:
    """Return the columns, but for the first, at which a group starts."""
    starts, column = set(), 0
    for _, span in groups:
        starts.add(column)
        column += span
    return starts - {0}
