"""Pieces of a web page that needs nothing beside it: every text is escaped, every picture lies inside."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24 }
h1 { font-size: 1.6rem } h2 { margin-top: 2.2rem; border-bottom: 1px solid #d0d7de } img { max-width: 100% }
table { border-collapse: collapse; margin: 1rem 0 } td, th { text-align: left; padding: .25rem .8rem .25rem 0 }
tr { border-bottom: 1px solid #e4e8ec } .note { color: #57606a; font-size: .9rem } figure { margin: 1.2rem 0 }
.card { border-left: .5rem solid; padding: .4rem 1rem; margin: .8rem 0; background: #f6f8fa }
.good { border-color: #1a7f37 } .look { border-color: #bf8700 } .bad { border-color: #cf222e }
"""


def page(title: str, body: Iterable[str]) -> str:
    """Put a page together.

    Args:
        title: Its title.
        body: Pieces of HTML.

    Returns:
        The HTML.
    """
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        # tells the browser to load nothing, whatever the page says
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        f"<title>{text(title)}</title><style>{STYLE}</style></head><body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def text(content: object) -> str:
    """Escape what HTML would trip over.

    Args:
        content: Anything.

    Returns:
        Its text.
    """
    return html.escape(str(content))


def heading(content: str, level: int = 2) -> str:
    """Write a heading.

    Args:
        content: Its text.
        level: 1 for the page's own.

    Returns:
        The HTML.
    """
    return f"<h{level}>{text(content)}</h{level}>"


def paragraph(content: str, kind: str = "") -> str:
    """Write a paragraph.

    Args:
        content: Its text.
        kind: Empty, or `note` for what is said in passing.

    Returns:
        The HTML.
    """
    return f'<p class="{kind}">{text(content)}</p>' if kind else f"<p>{text(content)}</p>"


def card(kind: str, head: str, content: str) -> str:
    """Write a verdict.

    Args:
        kind: `good`, `look` or `bad`: the colour.
        head: The verdict.
        content: What it rests on.

    Returns:
        The HTML.
    """
    return f'<div class="card {kind}"><strong>{text(head)}</strong> {text(content)}</div>'


def picture(file: Path, caption: str) -> str:
    """Put a picture into the page itself.

    Args:
        file: A PNG.
        caption: What it shows.

    Returns:
        The HTML.
    """
    data = base64.b64encode(file.read_bytes()).decode()
    image = f'<img alt="{text(caption)}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{text(caption)}</figcaption></figure>"


def link(where: str, content: str) -> str:
    """Write a paragraph that leads to another page.

    Args:
        where: Its address, relative to this one.
        content: What it is.

    Returns:
        The HTML.
    """
    return f'<p><a href="{text(where)}">{text(content)}</a></p>'


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Write a table.

    Args:
        head: Names of the columns.
        rows: The cells.

    Returns:
        The HTML.
    """
    top = "".join(f"<th>{text(cell)}</th>" for cell in head)
    lines = ("<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{''.join(lines)}</table>"
