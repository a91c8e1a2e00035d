"""Pictures of single examples: which tokens survive to which layer, and how much each counts there.

A page (HTML) and an image (PNG) of each: a line per layer, the tokens from left to right. They hold texts of the data, so
they lie in `runs` and in MLflow, and are never kept with results.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

import numpy as np

from adaptive_inference.evaluation.explained import Line, Picture
from adaptive_inference.files import write_text
from adaptive_pipeline.reporting.figures.style import canvas, save
from adaptive_pipeline.reporting.text.html import page

#: Tokens that an image shows, and characters of each; a page shows all.
TOKENS, CHARACTERS = 80, 16
STRONG, GONE, RATIONALE = (0, 114, 178), "#f0f0f0", "#B03A00"
KEY = "Darker: counts more, in its line. Grey: no longer there. Underlined: the rationale that people marked."
STYLE = """
body { font: 15px/1.9 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 1rem auto; padding: 0 1rem; }
th { text-align: left; vertical-align: top; white-space: nowrap; padding-right: 1rem; font-weight: normal; color: #555; }
td span { padding: 0.1rem 0.15rem; border-radius: 0.2rem; }
td span.gone { color: #c4c4c4; }
td span.strong { color: white; }
u { text-decoration-color: #B03A00; text-decoration-thickness: 0.15rem; }
"""


def write_pictures(pictures: Sequence[Picture], folder: Path) -> None:
    """Write ``ID.html`` and ``ID.png`` of each example; equal pictures are equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        write_text(folder / f"{picture.id}.html", picture_page(picture))
        draw_picture(picture, folder, str(picture.id))


def strength(picture: Picture, line: Line) -> np.ndarray:
    """Return how strongly each token is coloured, ``(N,)`` in [0, 1]: 1 is the line's best word; 0 what is gone.

    A special token may score above all words, as attention often has it; it is coloured as the best word.
    """
    scores_N = np.where(line.kept_N, line.scores_N, 0.0).astype(float)
    best = scores_N[picture.words_N].max(initial=0.0) or scores_N.max(initial=0.0)
    return np.minimum(scores_N, best) / best if best > 0 else np.zeros(len(scores_N))


def title(picture: Picture) -> str:
    """Return what a picture is headed with."""
    return f"Example {picture.id}: {picture.label}, predicted {picture.prediction}"


def picture_page(picture: Picture) -> str:
    """Return an example's page: a line of text per layer."""
    rows = "\n".join(
        f"<tr><th>{escape(line.name)}</th><td>{' '.join(_words(picture, line))}</td></tr>"
        for line in picture.lines
    )
    body = f"<h1>{escape(title(picture))}</h1>\n<p>{KEY}</p>\n<table>\n{rows}\n</table>"
    return page(title(picture), STYLE, body)


def _words(picture: Picture, line: Line) -> Iterator[str]:
    strengths = strength(picture, line)
    for place, token in enumerate(picture.tokens):
        marked = picture.rationale_N is not None and picture.rationale_N[place]
        text = f"<u>{escape(token)}</u>" if marked else escape(token)
        if line.kept_N[place]:
            colour = f"rgba{(*STRONG, round(float(strengths[place]), 3))}"
            dark = ' class="strong"' if strengths[place] > 0.6 else ""
            score = f"{line.scores_N[place]:.3g}"
            yield f'<span{dark} style="background: {colour}" title="{score}">{text}</span>'
        else:
            yield f'<span class="gone">{text}</span>'


def draw_picture(picture: Picture, folder: Path, name: str) -> str:
    """Draw an example's image, a column per token, of the first `TOKENS`."""
    from matplotlib.colors import to_rgb

    count, lines = min(len(picture.tokens), TOKENS), picture.lines
    strengths_LN = np.array([strength(picture, line)[:count] for line in lines])
    kept_LN = np.array([line.kept_N[:count] for line in lines])
    tint_LN1 = (0.1 + 0.9 * strengths_LN)[..., None]  # what is there is never white
    faded_LN3 = 1 - tint_LN1 * (1 - np.array(STRONG) / 255)
    cells_LN3 = np.where(kept_LN[..., None], faded_LN3, to_rgb(GONE))
    marked_N = np.zeros(count, bool) if picture.rationale_N is None else picture.rationale_N[:count]
    note = f" (the first {count} of {len(picture.tokens)} tokens)" if count < len(picture.tokens) else ""
    with canvas(max(5.5, 1.2 + 0.17 * count), 1.9 + 0.24 * len(lines)) as (figure, (axes,)):
        axes.imshow(cells_LN3, aspect="auto", interpolation="none")
        axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(len(lines) + 1) - 0.5, minor=True)
        axes.grid(visible=False)
        axes.grid(which="minor", color="white", linewidth=1.0)
        axes.tick_params(which="both", length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
        shown = [_short(token) for token in picture.tokens[:count]]
        axes.set_xticks(range(count), shown, rotation=90, fontsize=7.5, parse_math=False)
        axes.set_yticks(range(len(lines)), [line.name for line in lines], fontsize=8)
        for place in np.flatnonzero(marked_N):
            axes.get_xticklabels()[place].set(color=RATIONALE, fontweight="bold")
            axes.plot(
                [place - 0.4, place + 0.4], [-0.56, -0.56], color=RATIONALE, linewidth=2.0, clip_on=False
            )
        axes.set(xlim=(-0.5, count - 0.5), ylim=(len(lines) - 0.5, -0.5))
        for spine in axes.spines.values():
            spine.set_visible(False)
        figure.suptitle(f"{title(picture)}{note}", x=0.01, ha="left", fontsize=9.5, parse_math=False)
        figure.supxlabel(KEY, x=0.01, ha="left", fontsize=7.5, color="#555555")
        return save(figure, folder, name, ("png",))


def _short(token: str) -> str:
    return token if len(token) <= CHARACTERS else token[: CHARACTERS - 1] + "…"
