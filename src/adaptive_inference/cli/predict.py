"""``adaptive-inference predict``: answer texts with a saved model."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptive_inference.cli.options import (
    add_batch_size,
    add_column,
    add_command,
    add_device,
    add_own_code,
    check_batch_size,
)
from adaptive_inference.cli.streaming import Clock, answered, counted
from adaptive_inference.errors import UserError

if TYPE_CHECKING:
    from adaptive_inference.serving.prediction import Prediction
    from adaptive_inference.serving.predictor import Predictor

TEXT = """Answer texts with a saved model; each leaves at the first exit that is sure enough.

A file that ends in .csv, .tsv, .jsonl (.gz as well) or .parquet is a table: its text column is the one that the model
was trained on, or the one that --column names. Any other file, and standard input, is one text per line, or one JSON
object per line. A task of two texts needs a table or JSON objects. Blank lines, and blank cells of a CSV or TSV, are
skipped.

Each answer has the line of its text (of a Parquet file, the row), the label and its probability (or the score), the
exit layer, whether the text was cut because it is longer than the model reads, and the FLOPs that it took; of a model
that removes tokens also how many each layer ran on. JSON lines have the probabilities of all labels too. The closing
summary, progress and errors go to standard error. Nothing to answer is an error: status 2.

With --format glue the input is a test file of a GLUE task (its labels are not looked at) and the output the TSV that
the GLUE server takes."""

EXAMPLES = """examples:
  echo 'a truly lovely film' | adaptive-inference predict exported/
  adaptive-inference predict exported/ tickets.csv --format csv > answers.csv
  adaptive-inference predict exported/ tickets.parquet --column message --batch-size 32 > answers.jsonl
  adaptive-inference predict exported/ pairs.tsv --column question --column answer --device auto
  adaptive-inference predict runs/tiers/minilm/seed0/sweet texts.txt --rule confidence --threshold 0.95
  adaptive-inference predict exported/ test.tsv --format glue --glue-task rte > RTE.tsv
  adaptive-inference predict exported/ test.tsv --format glue --glue-task mnli-mm --out submission/"""


def add(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "predict", _predict, "answer texts with a saved model", TEXT, EXAMPLES)
    parser.add_argument(
        "model", metavar="MODEL", help="exported folder, a method's run folder, or a hub's id, OWNER/NAME"
    )
    parser.add_argument(
        "file", metavar="FILE", nargs="?", type=Path, help="a table or lines of text; default: standard input"
    )
    add_column(parser)
    parser.add_argument(
        "--format",
        choices=["jsonl", "csv", "tsv", "glue"],
        default="jsonl",
        help="JSON lines (default), a table with a header, or GLUE's TSV",
    )
    parser.add_argument(
        "--rule",
        help="exit rule, e.g. confidence or 'patience(tolerance=0.2)'; default: the calibration's recommendation",
    )
    parser.add_argument("--threshold", type=float, help="the rule's threshold; default: the calibrated one")
    add_batch_size(parser, 1, "rows at once, e.g. 32 for a file; 1 (default) answers line by line")
    add_device(parser)
    parser.add_argument(
        "--threads",
        metavar="N",
        type=int,
        help="of a model exported for ONNX Runtime: threads of one operator (default: one for each core)",
    )
    parser.add_argument("--revision", help="of a hub's id: commit, branch or tag; default: the newest")
    parser.add_argument(
        "--glue-task", metavar="TASK", help="e.g. rte, sst2, mnli-m, mnli-mm; default: the model's own task"
    )
    parser.add_argument(
        "--out", help="file of --format glue, or a folder/ for a file of the server's name; default: print"
    )
    add_own_code(parser)


def _predict(args: argparse.Namespace) -> None:
    """Tell all that can be wrong before a model, and torch with it, is loaded; then answer."""
    from adaptive_inference.cli.answers import writer
    from adaptive_inference.cli.rows import open_rows
    from adaptive_inference.exit_rules import load_rule
    from adaptive_inference.exits.layout import open_model
    from adaptive_inference.serving.hub import model_folder
    from adaptive_inference.tasks.schema import Schema

    args.model = model_folder(args.model, args.revision)
    home = open_model(args.model).home
    check_batch_size(args.batch_size)
    if args.rule is not None:
        load_rule(args.rule)
    if args.format == "glue":
        _predict_glue(args, Schema.load(home))
        return
    if args.out is not None or args.glue_task is not None:
        raise UserError("--out and --glue-task go with --format glue; add it, or leave them out")
    schema = Schema.load(home)
    with open_rows(args.file, args.column, schema) as rows:
        write, tally = writer(args.format, schema, sys.stdout), Tally()
        predictor = _load(args)
        for row, answer in answered(_stream(predictor, args), rows.found, rows.total, "row", tally):
            tally.add(answer)
            write(row.line, answer)
            sys.stdout.flush()
        if not tally.rows:
            raise UserError(f"{rows.origin} holds no text to answer")
    print(tally.summary(predictor, rows.blank), file=sys.stderr)


def _predict_glue(args: argparse.Namespace, schema: Any) -> None:
    from adaptive_inference.cli.rows import Row, open_table
    from adaptive_inference.data.glue import glue_task, read_texts, submission
    from adaptive_inference.files import write_text

    if args.file is None:
        raise UserError(
            "--format glue needs FILE, the test file of the task (.jsonl, .tsv, .csv or .parquet)"
        )
    if args.column is not None:
        raise UserError("--column does not go with --format glue, whose files have columns of known names")
    task = glue_task(args.glue_task, schema)
    texts = read_texts(open_table(args.file), task, schema)
    predictor, tally = _load(args), Tally()
    rows = (Row(place, tuple(text)) for place, text in enumerate(texts))
    found = []
    for _, answer in answered(_stream(predictor, args), rows, len(texts), "row", tally):
        tally.add(answer)
        found.append(answer)
    text = submission(task, schema, [answer.label for answer in found])
    if args.out is None:
        sys.stdout.write(text)
    else:
        folder = args.out.endswith("/") or Path(args.out).is_dir()
        write_text(Path(args.out, task.file) if folder else Path(args.out), text)
    print(f"{task.file}: {tally.summary(predictor)}", file=sys.stderr)
    if len(found) != task.rows:
        print(f"note: GLUE's test set has {task.rows} rows, and the server wants them all", file=sys.stderr)


def _load(args: argparse.Namespace) -> Predictor:
    from adaptive_inference.serving.predictor import load_predictor

    return load_predictor(args.model, args.rule, args.threshold, args.device, threads=args.threads)


def _stream(predictor: Predictor, args: argparse.Namespace) -> Any:
    return partial(predictor.stream, batch_size=args.batch_size)


@dataclass
class Tally(Clock):
    """What the closing summary tells."""

    rows: int = 0
    exit_layers: int = 0
    layers_run: int = 0
    cut: int = 0

    def add(self, answer: Prediction) -> None:
        """Count one answer."""
        self.rows += 1
        self.exit_layers += answer.exit_layer
        self.layers_run += answer.layers_run
        self.cut += answer.cut

    def summary(self, predictor: Predictor, blank: int = 0) -> str:
        """Return one line, or two where something of the input was left out."""
        rows, layers = self.rows, predictor.full_layers
        told = (
            f"{counted(rows, 'row')}, mean exit layer {self.exit_layers / rows:.2f} of {layers}, "
            f"{layers * rows / self.layers_run:.2f} times fewer layers than the full model, "
            + self.speed("row")
        )
        notes = []
        if self.cut:
            limit = predictor.schema.max_length
            notes.append(f"{counted(self.cut, 'text')} longer than {limit} tokens: cut there")
        if blank:
            notes.append(f"{counted(blank, 'row')} without a text left out")
        return "\n".join([told, *([f"note: {'; '.join(notes)}"] if notes else [])])
