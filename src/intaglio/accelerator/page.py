"""One self-contained HTML page: no script, no network, readable without either; light and dark."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

CSS = """
:root { --ink:#22303c; --soft:#66737f; --line:#e1e6ea; --paper:#ffffff; --card:#f6f8fa; --accent:#3565a8; }
* { box-sizing:border-box } html { -webkit-text-size-adjust:100% }
body { margin:0; background:var(--paper); color:var(--ink);
font:16px/1.55 Inter,"Helvetica Neue",Helvetica,Arial,sans-serif }
main { max-width:1060px; margin:0 auto; padding:40px 28px 80px }
header p.kicker { margin:0; color:var(--accent); font-size:13px; font-weight:600; letter-spacing:.09em;
text-transform:uppercase }
h1 { font-size:33px; line-height:1.2; margin:6px 0 8px; letter-spacing:-.015em }
h2 { font-size:21px; margin:52px 0 6px; padding-top:20px; border-top:1px solid var(--line); letter-spacing:-.01em }
h3 { font-size:16px; margin:26px 0 4px }
p.lead { color:var(--soft); margin:0 0 8px; max-width:76ch } p { max-width:76ch }
.cards { display:grid; grid-template-columns:repeat(auto-fit,minmax(150px,1fr)); gap:10px; margin:26px 0 8px }
.card { background:var(--card); border-radius:10px; padding:13px 14px }
.card b { display:block; font-size:20px; white-space:nowrap; font-weight:650; letter-spacing:-.02em;
line-height:1.25; font-variant-numeric:tabular-nums }
.card span { color:var(--soft); font-size:13px; display:block } .card small { color:var(--soft); font-size:12px }
figure { margin:14px 0 8px } figure svg { width:100%; height:auto; display:block } figure img { width:100%;
display:block }
figcaption { color:var(--soft); font-size:13.5px; margin-top:4px; max-width:90ch }
.pair { display:grid; grid-template-columns:1fr 1fr; gap:26px } @media (max-width:800px) { .pair {
grid-template-columns:1fr } }
.scroll { overflow-x:auto; margin:12px 0 }
table { border-collapse:collapse; width:100%; font-size:13.5px; font-variant-numeric:tabular-nums }
th { text-align:left; color:var(--soft); font-weight:600; border-bottom:1px solid #cbd3da; padding:6px 10px 6px 0;
white-space:nowrap }
td { border-bottom:1px solid var(--line); padding:5px 10px 5px 0; vertical-align:top } td.n, th.n { text-align:right }
td:first-child { min-width:120px; overflow-wrap:anywhere }
pre { background:var(--card); border-radius:10px; padding:16px 18px; overflow-x:auto; font:12.5px/1.55
ui-monospace,Menlo,Consolas,monospace }
details { margin:10px 0 } summary { cursor:pointer; color:var(--accent); font-weight:600 }
.note { border-left:3px solid #d97a2b; background:#fdf6ee; padding:10px 16px; border-radius:0 8px 8px 0; margin:16px
0; font-size:14.5px }
.good { color:#257a58; font-weight:600 } .bad { color:#b04443; font-weight:600 }
@media print { main { max-width:none; padding:0 } h2 { break-after:avoid } figure, .cards { break-inside:avoid } }
"""


def page(title: str, kicker: str, lead: str, body: Iterable[str]) -> str:
    """The document. `body` are HTML pieces; title, kicker and lead are plain text."""
    head = (
        f'<header><p class="kicker">{html.escape(kicker)}</p><h1>{html.escape(title)}</h1>'
        f'<p class="lead">{html.escape(lead)}</p></header>'
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{CSS}</style></head>\n<body><main>{head}\n"
        + "\n".join(body)
        + "\n</main></body></html>\n"
    )


def section(title: str, lead: str = "") -> str:
    return f"<h2>{html.escape(title)}</h2>" + (f'<p class="lead">{html.escape(lead)}</p>' if lead else "")


def figure(picture: str, caption: str = "") -> str:
    return f"<figure>{picture}" + (f"<figcaption>{html.escape(caption)}</figcaption>" if caption else "") + "</figure>"


def cards(items: Sequence[tuple[str, str, str]]) -> str:
    """(label, value, small print) each."""
    inner = "".join(
        f'<div class="card"><span>{html.escape(label)}</span><b>{html.escape(value)}</b>'
        f"<small>{html.escape(small)}</small></div>"
        for label, value, small in items
    )
    return f'<div class="cards">{inner}</div>'


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Numbers to the right, with thousands separated."""
    if not rows:
        return ""
    numeric = {key: all(isinstance(row[key], int | float) or row[key] == "" for row in rows) for key in rows[0]}
    head = "".join(f'<th class="{"n" if numeric[k] else "t"}">{html.escape(k)}</th>' for k in rows[0])
    lines = [
        "<tr>" + "".join(f'<td class="{"n" if numeric[k] else "t"}">{_cell(row[k])}</td>' for k in rows[0]) + "</tr>"
        for row in rows
    ]
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def details(summary: str, inner: str) -> str:
    return f"<details><summary>{html.escape(summary)}</summary>{inner}</details>"


def code(text: str) -> str:
    return f"<pre>{html.escape(text)}</pre>"


def note(text: str) -> str:
    return f'<div class="note">{html.escape(text)}</div>'


def _cell(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return html.escape(str(value))
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"
