"""Pages of single texts: the decoder blocks that each token came from, shown over what was written.

They hold texts of the data, so they lie in `runs` and in MLflow, and are never kept with results.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import fmean

from adaptive_inference.errors import UserError
from adaptive_inference.files import write_text
from adaptive_pipeline.reporting.text.html import page

#: Few blocks to all blocks, light to dark, so that a page in grey can be read too.
LIGHT, DARK = (253, 231, 160), (33, 60, 120)
STYLE = """
body { font: 15px/1.6 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 1rem auto; padding: 0 1rem; }
h2 { font-size: 1rem; margin: 1.5rem 0 0.3rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.2rem 0.8rem; margin: 0; }
dt { color: #555; }
dd { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
section { break-inside: avoid; }
.written { line-height: 2.1; }
.token { padding: 0.15rem 0.1rem; border-radius: 0.2rem; -webkit-print-color-adjust: exact; print-color-adjust: exact; }
.token sub { font-size: 0.65em; margin-left: 0.1em; }
.dark { color: white; }
.other { text-decoration: underline wavy #D55E00; }
"""


@dataclass(frozen=True)
class Written:
    """A text that was written, with N tokens.

    Attributes
    ----------
    id
        Of the row.
    source, target
        What was read, and what should have been written.
    pieces
        N tokens as text; put together they are what was written.
    depths
        N numbers of decoder blocks, from 1, that the tokens came from.
    confidences
        N confidences of the last test; None where there was none.
    agreed
        N: whether all blocks write the same token; None where nobody looked.
    """

    id: int
    source: str
    target: str
    pieces: tuple[str, ...]
    depths: tuple[int, ...]
    confidences: tuple[float | None, ...]
    agreed: tuple[bool | None, ...]


def write_depth_page(title: str, blocks: int, texts: Sequence[Written], file: Path) -> None:
    """Write the page of some texts; see `depth_page`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, depth_page(title, blocks, texts))


def depth_page(title: str, blocks: int, texts: Sequence[Written]) -> str:
    """Return a page with the exit depth of each token, as colour and as number.

    Parameters
    ----------
    title
        Task, model, method and threshold, in words.
    blocks
        Of the decoder: the depth of a token that did not leave early.

    Raises
    ------
    UserError
        A text's tokens and figures differ in number, or a depth is not one of the decoder's.
    """
    for text in texts:
        _check(text, blocks)
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{''.join(_legend(blocks))}</p>",
        *(_section(text, blocks) for text in texts),
    ]
    return page(title, STYLE, "\n".join(body))


def shade(depth: int, blocks: int) -> tuple[int, int, int]:
    """Return the colour of a depth: linear from `LIGHT`, one block, to `DARK`, all blocks."""
    share = (depth - 1) / max(1, blocks - 1)
    red, green, blue = (round(low + share * (high - low)) for low, high in zip(LIGHT, DARK, strict=True))
    return red, green, blue


def _check(text: Written, blocks: int) -> None:
    counts = [len(given) for given in (text.pieces, text.depths, text.confidences, text.agreed)]
    if len(set(counts)) > 1:
        raise UserError(
            f"text {text.id} has {counts[0]} tokens, but {counts[1]} depths, {counts[2]} confidences and {counts[3]} "
            "agreements: give one of each per token"
        )
    wrong = [depth for depth in text.depths if not 1 <= depth <= blocks]
    if wrong:
        raise UserError(
            f"text {text.id}: depth {wrong[0]} is none of the decoder's, which has 1 to {blocks} blocks"
        )


def _legend(blocks: int) -> Iterator[str]:
    yield "Decoder blocks that a token came from: "
    for depth in range(1, blocks + 1):
        yield f'<span class="token{_dark(depth, blocks)}" style="{_style(depth, blocks)}"> {depth} </span>'
    yield (
        '. The number behind a token says the same. <span class="other">Wavy</span>: all blocks would have written another '
        "token. A pointer held over a token shows its confidence."
    )


def _section(text: Written, blocks: int) -> str:
    mean = f", {fmean(text.depths):.2f} blocks per token" if text.depths else ""
    return (
        f"<section>\n<h2>Text {text.id}{mean}</h2>\n<dl>\n"
        f"<dt>Read</dt><dd>{escape(text.source)}</dd>\n"
        f"<dt>Wanted</dt><dd>{escape(text.target)}</dd>\n"
        f'<dt>Written</dt><dd class="written">{"".join(_tokens(text, blocks))}</dd>\n</dl>\n</section>'
    )


def _tokens(text: Written, blocks: int) -> Iterator[str]:
    given = zip(text.pieces, text.depths, text.confidences, text.agreed, strict=True)
    for piece, depth, confidence, agreed in given:
        told = "" if confidence is None else f' title="confidence {confidence:.3f}"'
        other = " other" if agreed is False else ""
        yield (
            f'<span class="token{_dark(depth, blocks)}{other}" style="{_style(depth, blocks)}"{told}>'
            f"{escape(piece)}<sub>{depth}</sub></span>"
        )


def _style(depth: int, blocks: int) -> str:
    return f"background: rgb{shade(depth, blocks)}"


def _dark(depth: int, blocks: int) -> str:
    """Return the class of a token on a colour on which black cannot be read."""
    red, green, blue = shade(depth, blocks)
    return " dark" if 0.299 * red + 0.587 * green + 0.114 * blue < 140 else ""
