r"""Write `docs/results/speed.md` and its figure from what `run_all.py` measured.

python benchmarks/speed_page.py
python benchmarks/speed_page.py --bench /tmp/bench --out /tmp/page
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adaptive_inference.errors import UserError
from adaptive_inference.files import read_json
from adaptive_pipeline.reporting.figures.style import SPARE, canvas, save
from adaptive_pipeline.reporting.text.markdown import table

PROJECT = Path(__file__).resolve().parents[1]
#: Ways to serve, whatever suite measured them; one that is missing here is told by its own name.
LABELS = {
    "torch_leaves_half": "PyTorch, leaves after half",
    "torch_leaves_third": "PyTorch, leaves after a third",
    "torch": "PyTorch, rows leave",
    "torch_stream": "PyTorch, streaming",
    "onnx_fp32_stream": "ONNX fp32, streaming",
    "onnx_fp32": "ONNX fp32, full",
    "onnx_fp32_leaves_half": "ONNX fp32, leaves after half",
    "onnx_int8": "ONNX int8, full",
    "onnx_int8_leaves_half": "ONNX int8, leaves after half",
    "onnx_fp32_leaves": "ONNX fp32, rows leave",
    "onnx_int8_leaves": "ONNX int8, rows leave",
    "openvino_int8": "OpenVINO int8, full",
}
#: Against the stock full model, but no way to serve: what asking costs where nothing leaves.
NO_CHOICE = ("torch_never", "onnx_fp32_never", "onnx_int8_never")
Row = dict[str, Any]


def choices(table_: Iterable[Row]) -> list[Row]:
    """Return the rows that say how fast a way to serve is, against the stock full model on the same input."""
    return [
        row
        for row in table_
        if row["baseline"] == "stock" and "length" in row and row["name"] not in NO_CHOICE
    ]


def label(name: str) -> str:
    """Return a way's name for readers."""
    return LABELS.get(name, name.replace("_", " "))


def sizes(rows: Iterable[Row]) -> list[tuple[int, int, int]]:
    """Return layers, width and threads of the tables, each once."""
    return sorted({(row["layers"], row["width"], row["threads"]) for row in rows})


def panel(rows: Sequence[Row], size: tuple[int, int, int]) -> list[Row]:
    """Return the rows of one size."""
    return [row for row in rows if (row["layers"], row["width"], row["threads"]) == size]


def title(size: tuple[int, int, int]) -> str:
    """Return a size in words."""
    layers, width, threads = size
    return f"{layers} layers, {width} wide, {threads} thread{'' if threads == 1 else 's'}"


def speed_table(rows: Sequence[Row]) -> list[str]:
    """Return a table of one size: a line for each batch and length, a column for each way, the fastest in bold."""
    names = list(dict.fromkeys(row["name"] for row in rows))
    places = sorted({(row["batch"], row["length"]) for row in rows})
    found = {(row["batch"], row["length"], row["name"]): row for row in rows}
    lines = []
    for batch, length in places:
        here = {name: found[batch, length, name] for name in names if (batch, length, name) in found}
        fastest = min(here, key=lambda name: here[name]["ratio"])
        cells = [_speed(here[name], name == fastest) if name in here else "" for name in names]
        lines.append([str(batch), str(length), *cells])
    return table("rr" + "r" * len(names), ["batch", "tokens", *map(label, names)], lines)


def _speed(row: Row, fastest: bool) -> str:
    text = f"{1 / row['ratio']:.2f}"
    interval = f" ({1 / row['ci_high']:.2f} to {1 / row['ci_low']:.2f})"
    return (f"**{text}**" if fastest else text) + interval


def advice(rows: Sequence[Row]) -> Iterator[str]:
    """Yield for each size and batch which way was fastest at which lengths."""
    for size in sizes(rows):
        here = panel(rows, size)
        for batch in sorted({row["batch"] for row in here}):
            won: dict[str, list[Row]] = {}
            of_batch = [row for row in here if row["batch"] == batch]
            for length in sorted({row["length"] for row in of_batch}):
                best = min((row for row in of_batch if row["length"] == length), key=lambda row: row["ratio"])
                won.setdefault(best["name"], []).append(best)
            parts = [f"**{label(name)}** at {_lengths(best)}" for name, best in won.items()]
            yield f"- {title(size)}, batch {batch}: {'; '.join(parts)}."


def _lengths(rows: Sequence[Row]) -> str:
    speeds = [1 / row["ratio"] for row in rows]
    lengths = ", ".join(str(row["length"]) for row in rows)
    span = f"{min(speeds):.1f}" if len(rows) == 1 else f"{min(speeds):.1f} to {max(speeds):.1f}"
    return f"{lengths} tokens ({span} x stock)"


def bars(table_: Iterable[Row]) -> list[str]:
    """Return the table of bars: one line for each pair with a limit, and the shapes where it was missed."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in table_:
        if "limit" in row:
            pooled = "rounds" not in row
            limit = (
                row["limit"] if pooled or "length" in row else None
            )  # others have a limit of their own each
            found.setdefault((row["suite"], row["name"], row["baseline"], pooled, limit), []).append(row)
    lines = []
    for (suite, name, baseline, pooled, limit), rows in found.items():
        ratios = [row["ratio"] for row in rows]
        missed = [
            f"{row['shape']}, {row['threads']} thr. ({row['ratio']:.3f})" for row in rows if not row["holds"]
        ]
        asked = "each its own" if limit is None else f"{limit:.3f}"
        of = "median over shapes" if pooled else f"{len(rows)} shapes"
        numbers = [f"{np.median(ratios):.3f}", f"{max(ratios):.3f}"]
        lines.append([suite, f"{name} / {baseline}", of, asked, *numbers, "; ".join(missed) or "none"])
    headers = ["benchmark", "time of / time of", "over", "at most", "median", "largest", "missed"]
    return table("lllrrrl", headers, lines)


def page(table_: Sequence[Row], machine: Row) -> str:
    """Return the page."""
    rows = choices(table_)
    if not rows:
        raise UserError("no row is against the stock full model; run `make bench` with the suites of serving")
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    lines = [
        "# Speed: what to deploy",
        "",
        "<!-- Made by benchmarks/speed_page.py from what `make bench` measured; do not edit. -->",
        "",
        f"On {machine['cpu']}, {machine['cores']} cores, by the {machine['clock']} clock ({versions}).",
        "All ways take turns in one process. Numbers say how many times faster than stock PyTorch a way is",
        "(`BertForSequenceClassification`, full, fp32, the same rows), with 95 % bootstrap intervals. Weights are random:",
        "the page is about speed; how deep rows must go depends on your task, and `make run` measures that. *Leaves after",
        "half* is a row for which the rule fires after half of the layers. *Rows leave* and *streaming*: batches whose rows",
        "leave at different exits, after half of the layers in the mean; in int8 each row of them runs by itself.",
        "",
        "## Which to use",
        "",
        *advice(rows),
        "",
        "![Times faster than stock PyTorch by length](speed.png)",
        "",
        "## All figures",
        "",
    ]
    for size in sizes(rows):
        lines += [f"### {title(size)}", "", *speed_table(panel(rows, size)), ""]
    lines += [
        "## Bars",
        "",
        "What the project asks of itself; ratios of times, so below 1 is faster.",
        "",
        *bars(table_),
        "",
        "Made with `make bench` (at most 45 minutes on an idle machine; it goes on where it was stopped). A part of it, by",
        "itself: `python benchmarks/NAME.py --help`.",
    ]
    return "\n".join(lines) + "\n"


def draw(rows: Sequence[Row], folder: Path) -> None:
    """Write the figure: speed by length at batch 1, a panel for each size."""
    single = [row for row in rows if row["batch"] == 1]
    names = list(dict.fromkeys(row["name"] for row in single))
    colours = {name: SPARE[index % len(SPARE)] for index, name in enumerate(names)}
    panels = sizes(single)
    with canvas(3.4 * len(panels), 3.0, 1, len(panels), sharey=True) as (figure, axes):
        for axis, size in zip(axes, panels, strict=True):
            here = panel(single, size)
            for name in names:
                line = sorted((row for row in here if row["name"] == name), key=lambda row: row["length"])
                lengths = [row["length"] for row in line]
                axis.plot(
                    lengths, [1 / row["ratio"] for row in line], "o-", color=colours[name], label=label(name)
                )
                low, high = ([1 / row[end] for row in line] for end in ("ci_high", "ci_low"))
                axis.fill_between(lengths, low, high, color=colours[name], alpha=0.15, linewidth=0)
            axis.axhline(1.0, color="#555555", linewidth=0.8)
            axis.set(xscale="log", xlabel="tokens, batch 1", title=title(size))
            ticks = sorted({row["length"] for row in here})
            axis.set_xticks(ticks, map(str, ticks))
            axis.minorticks_off()
        axes[0].set_ylabel("times faster than stock PyTorch")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
        save(figure, folder, "speed", ["png"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--bench", type=Path, default=PROJECT / "bench", help="of run_all.py (default: bench)"
    )
    parser.add_argument(
        "--out", type=Path, default=PROJECT / "docs" / "results", help="default: docs/results"
    )
    args = parser.parse_args()
    if not (args.bench / "benchmarks.json").is_file():
        raise UserError(f"{args.bench} holds no benchmarks.json; run `make bench` first")
    measured = json.loads((args.bench / "benchmarks.json").read_text(encoding="utf-8"))
    args.out.mkdir(parents=True, exist_ok=True)
    text = page(measured, read_json(args.bench / "machine.json"))
    (args.out / "speed.md").write_text(text, encoding="utf-8")
    draw(choices(measured), args.out)
    print(f"{args.out / 'speed.md'}")


if __name__ == "__main__":
    main()
