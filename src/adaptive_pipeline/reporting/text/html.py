"""The frame of a page: one file, no script, nothing loaded from elsewhere."""

from __future__ import annotations

from html import escape

#: A browser runs no script and loads nothing, whatever stands in a name of the params or a text of the data.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(title: str, style: str, body: str) -> str:
    """Return a whole page.

    Parameters
    ----------
    title
        Plain text.
    style
        Its style sheet.
    body
        HTML.
    """
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{escape(title)}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""
