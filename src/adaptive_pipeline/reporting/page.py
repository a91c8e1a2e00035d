"""``report.html``: one file that opens on the recommendation and the main table; no script, nothing from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Protocol

from markdown_it import MarkdownIt

from adaptive_pipeline.grid import TRAINING_STAGES
from adaptive_pipeline.reporting.figures.captions import CAPTIONS, ORDER
from adaptive_pipeline.reporting.text.html import page

TRAININGS = ("finetune_backbone", *TRAINING_STAGES)
#: What stages read of which the graph does not know the method.
_OF_A_SEED = ("prepare_data", "calibrate_thresholds", "recommend")
#: Stage -> the stages whose outputs it reads, as in ``dvc.yaml`` (a test compares), and what it does.
GRAPH: dict[str, tuple[tuple[str, ...], str]] = {
    "prepare_data": ((), "draws the four splits"),
    "finetune_backbone": (("prepare_data",), "trains the full model"),
    "train_sweet": (("prepare_data",), "trains early exit and its kin"),
    "train_leebert": (
        ("prepare_data", "finetune_backbone"),
        "trains what starts or learns from the full model",
    ),
    "train_multi_model": (("prepare_data", "finetune_backbone"), "trains a cascade of models"),
    "extract_saliencies": (
        ("prepare_data", "finetune_backbone"),
        "scores every token of the training rows by how much the full model's answer hangs on it",
    ),
    "train_adapler": (
        ("prepare_data", "finetune_backbone", "extract_saliencies"),
        "trains models that remove tokens",
    ),
    "train_adapler_exits": (
        ("prepare_data", "train_adapler"),
        "trains exits on a model that removes tokens",
    ),
    "collect_answers": (
        ("prepare_data", *TRAININGS),
        "lets every exit answer the calibration and evaluation rows",
    ),
    "calibrate_thresholds": (("collect_answers",), "chooses thresholds on the calibration rows"),
    "evaluate_batch1": (
        ("prepare_data", *TRAININGS, "collect_answers", "calibrate_thresholds"),
        "measures and times every operating point on the evaluation rows",
    ),
    "score_rationales": (
        ("prepare_data", *TRAININGS),
        "holds scores of tokens, and the tokens that survive, against rationales",
    ),
    "recommend": (("calibrate_thresholds",), "chooses one model, rule and threshold among all methods"),
    "evaluate_recommended": (_OF_A_SEED, "measures and times what is recommended on the evaluation rows"),
    "export_model": (
        _OF_A_SEED,
        "exports the full and the recommended model, and others where asked for, for ONNX Runtime; calibrates each export",
    ),
    "choose_deployment": (
        (*_OF_A_SEED, "export_model"),
        "chooses the deployment that is the fastest on this machine, and times all of them",
    ),
    "prepare_texts": ((), "draws the splits of texts, and trains a tokenizer or takes one"),
    "train_free": (("prepare_texts",), "trains decoders by a loss over their blocks"),
    "continue_free": (
        ("prepare_texts", "train_free"),
        "trains decoders further that another training has begun",
    ),
    "assign_model": (("train_free", "continue_free"), "notes which trained model a method of decoding runs"),
    "calibrate_decoding": (
        ("prepare_texts", "assign_model"),
        "runs every threshold on calibration rows, and chooses",
    ),
    "answer_texts": (
        ("prepare_texts", "assign_model", "calibrate_decoding"),
        "writes the evaluation rows' texts at every threshold",
    ),
    "evaluate_decoding": (
        ("prepare_texts", "assign_model", "calibrate_decoding", "answer_texts"),
        "measures these texts, and times the chosen thresholds",
    ),
    "make_tables": (
        (
            "prepare_data",
            *TRAININGS,
            "collect_answers",
            "calibrate_thresholds",
            "evaluate_batch1",
            "recommend",
            "evaluate_recommended",
            "export_model",
            "choose_deployment",
            "extract_saliencies",
            "score_rationales",
            "prepare_texts",
            "train_free",
            "continue_free",
            "assign_model",
            "calibrate_decoding",
            "answer_texts",
            "evaluate_decoding",
        ),
        "makes this page from the records of all",
    ),
}

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 64rem; margin: 1rem auto; padding: 0 1rem; }
nav a { margin-right: 1rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; font-size: 0.9rem; margin: 1rem 0; }
th, td { border: 1px solid #ddd; padding: 0.3rem 0.6rem; }
tr:nth-child(even) { background: #f6f6f6; }
figure { margin: 2rem 0; }
img { max-width: 100%; }
figcaption { color: #555; }
summary { cursor: pointer; margin: 0.5rem 0; }
pre { background: #f6f6f6; padding: 0.6rem; overflow-x: auto; }
"""
#: The table on tasks that write text; not there where there are none.
DECODING = "generation.md"
MARKDOWN = MarkdownIt("commonmark").enable("table")


class Pair(Protocol):
    """A task, and what was trained for it: the figures of each stand together."""

    @property
    def pair(self) -> tuple[str, str]:
        """Names of the two."""

    @property
    def title(self) -> str:
        """What its figures are headed with."""


def report_page(
    pairs: Sequence[Pair],
    recommendation: str,
    tables: Mapping[str, str],
    figures: Sequence[str],
    folder: Path,
) -> str:
    """Return the text of ``report.html``.

    Parameters
    ----------
    pairs
        In the order in which their figures are shown.
    recommendation
        Text of ``recommendation.md``; empty where there are no classifiers, of which ``main.md`` says nothing either.
    tables
        File name -> text of every table, ``main.md`` among them.
    figures, folder
        Names of the figures that were drawn, and where their SVG files lie.
    """
    classified = {"Recommendation": recommendation, "Results": tables["main.md"]} if recommendation else {}
    written = {"Decoding": tables[DECODING]} if DECODING in tables else {}
    parts = {name: MARKDOWN.render(text) for name, text in (classified | written).items()} | {
        "Figures": "\n".join(_figures(pairs, figures, folder)),
        "Tables": "\n".join(_other_tables(tables)),
        "Graph": _graph(),
    }
    links = " ".join(f'<a href="#{name}">{name}</a>' for name in parts)
    sections = "\n".join(f'<section id="{name}">\n{body}\n</section>' for name, body in parts.items())
    return page("Results of adaptive-inference", STYLE, f"<nav>{links}</nav>\n{sections}")


def _figures(pairs: Sequence[Pair], names: Sequence[str], folder: Path) -> Iterator[str]:
    """Yield each figure with its caption, in the told order; one heading per task and backbone."""
    yield "<h1>Figures</h1>"
    for one in pairs:
        yield f"<h2>{escape(one.title)}</h2>"
        for kind in ORDER:
            stem = "-".join([*one.pair, kind])
            for name in names:
                if name == stem or name.startswith(f"{stem}-"):
                    yield _figure(folder / f"{name}.svg", CAPTIONS[kind], name)


def _figure(file: Path, caption: str, name: str) -> str:
    image = base64.b64encode(file.read_bytes()).decode()
    return (
        f'<figure id="{escape(name)}"><img alt="{escape(caption)}" src="data:image/svg+xml;base64,{image}">\n'
        f"<figcaption>{escape(caption)} <small>{escape(name)}</small></figcaption></figure>"
    )


def _other_tables(tables: Mapping[str, str]) -> Iterator[str]:
    yield "<h1>Other tables</h1>"
    for name, text in tables.items():
        if name.endswith(".md") and name not in ("main.md", DECODING):
            yield f"<details>\n<summary>{name}</summary>\n{MARKDOWN.render(text)}</details>"
    links = (f'<a href="tables/{name}">{name}</a>' for name in tables if name.endswith((".csv", ".tex")))
    yield f"<p>Beside this page, to compute with: {', '.join(links)}.</p>"


def _graph() -> str:
    rows = (
        f"<tr><td>{stage}</td><td>{does}</td><td>{', '.join(reads)}</td></tr>"
        for stage, (reads, does) in GRAPH.items()
    )
    return "\n".join(
        [
            "<h1>How it was computed</h1>",
            "<p><code>check_params</code> checks the params before all others. Each stage's own record lies in "
            "<code>runs/</code>, the params in <code>params.yaml</code>.</p>",
            "<table><tr><th>Stage</th><th>What it does</th><th>Reads from</th></tr>",
            *rows,
            "</table>",
        ]
    )
