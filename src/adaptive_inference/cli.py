"""Console command ``adaptive-inference``: predict with a saved model, and gather a run into one folder.

Loads no torch until a model is really needed, so that ``--help`` and mistakes are answered at once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from adaptive_inference.errors import UserError, nearest
from adaptive_inference.own_code import load_own_code

if TYPE_CHECKING:
    from adaptive_inference.serving.predictor import Prediction
    from adaptive_inference.tasks.schema import Schema

PREDICT = """Answer texts with a saved model; each leaves at the first exit that is sure enough.

Input is one text per line, or one JSON object per line with the key "text" or the task's own text columns (a task
of two texts needs objects). Blank lines are skipped. Output is one JSON object per line, in the input's order:
label, probability, probabilities, exit_layer (a score and exit_layer for a regression task).

With --format glue the input is a test file of a GLUE task (JSONL, CSV, TSV or Parquet; labels are not looked at) and
the output the TSV that the GLUE server takes; rows and mean exit layer are told on standard error."""

PREDICT_EXAMPLES = """examples:
  echo 'a truly lovely film' | adaptive-inference predict exported/
  adaptive-inference predict runs/tiers/minilm/seed0/sweet texts.txt --batch-size 32 > answers.jsonl
  adaptive-inference predict exported/ rows.jsonl --rule confidence --threshold 0.95
  adaptive-inference predict exported/ test.tsv --format glue --glue-task rte > RTE.tsv
  adaptive-inference predict exported/ test.tsv --format glue --glue-task mnli-mm --out submission/"""

EXPORT = """Gather a method's run into one folder that can be loaded, copied and published: weights, tokenizer,
calibration and a model card with thresholds and quality."""

EXPORT_EXAMPLES = """example:
  adaptive-inference export runs/tiers/minilm/seed0/sweet exported/"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status (0, or 2 for a user's mistake)."""
    args = _parser().parse_args(argv)
    try:
        for file in args.own_code:
            load_own_code(file)
        args.run(args)
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "transformers"):
            raise
        print(
            f"error: predicting needs {error.name}; pip install 'adaptive-inference[torch]'", file=sys.stderr
        )
        return 2
    except BrokenPipeError:  # the reader (`head`) has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        told = f"{error.filename or 'output'}: {error.strerror}" if error.strerror else str(error)
        print(f"error: {told}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="adaptive-inference", description=__doc__.split("\n\n")[0].split(": ")[1]
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    raw = argparse.RawDescriptionHelpFormatter
    predict = commands.add_parser(
        "predict", help="answer texts", description=PREDICT, epilog=PREDICT_EXAMPLES, formatter_class=raw
    )
    predict.add_argument(
        "model", metavar="MODEL_DIR", type=Path, help="exported folder, or a method's run folder"
    )
    predict.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        type=Path,
        help="texts or JSONL, default: standard input; GLUE: the test file",
    )
    predict.add_argument(
        "--rule",
        help="exit rule, e.g. confidence or 'patience(tolerance=0.2)'; default: the calibration's recommendation",
    )
    predict.add_argument("--threshold", type=float, help="the rule's threshold; default: the calibrated one")
    predict.add_argument(
        "--batch-size",
        type=int,
        default=1,
        help="rows at once, e.g. 32 for a file; 1 (default) answers line by line",
    )
    predict.add_argument(
        "--format", choices=["json", "glue"], default="json", help="JSON lines (default), or GLUE's TSV"
    )
    predict.add_argument(
        "--glue-task", metavar="TASK", help="e.g. rte, sst2, mnli-m, mnli-mm; default: the model's own task"
    )
    predict.add_argument(
        "--out", help="file of --format glue, or a folder/ for a file of the server's name; default: print"
    )
    predict.set_defaults(run=_predict)
    export = commands.add_parser(
        "export", help="gather a run", description=EXPORT, epilog=EXPORT_EXAMPLES, formatter_class=raw
    )
    export.add_argument(
        "run_folder", metavar="RUN_DIR", type=Path, help="e.g. runs/TASK/BACKBONE/seed0/METHOD"
    )
    export.add_argument("out", metavar="OUT", type=Path, help="folder to make; must not exist or be empty")
    export.set_defaults(run=_export)
    for command in (predict, export):
        command.add_argument(
            "--own-code",
            metavar="FILE",
            action="append",
            default=[],
            help="run a file of your own (or package.module) that has the model's exit rule or encoder; repeat for more",
        )
    return parser


def _predict(args: argparse.Namespace) -> None:
    from adaptive_inference.exit_rules import load_rule
    from adaptive_inference.exits.layout import open_model

    open_model(args.model)
    if args.batch_size < 1:
        raise UserError(f"--batch-size {args.batch_size} must be a whole number from 1, e.g. 32")
    if args.rule is not None:
        load_rule(args.rule)
    if args.format == "glue":
        _predict_glue(args)
        return
    if args.out is not None or args.glue_task is not None:
        raise UserError("--out and --glue-task go with --format glue; add it, or leave them out")
    with _lines(args.file) as lines:
        from adaptive_inference.serving.predictor import load_predictor

        predictor = load_predictor(args.model, args.rule, args.threshold)
        for answer in predictor.stream(_texts(lines, predictor.schema), args.batch_size):
            print(json.dumps(_answer(answer, predictor.schema), ensure_ascii=False), flush=True)


def _predict_glue(args: argparse.Namespace) -> None:
    from adaptive_inference.data.glue import glue_task, read_texts, submission
    from adaptive_inference.data.local import read_table
    from adaptive_inference.exits.layout import open_model
    from adaptive_inference.files import write_text
    from adaptive_inference.tasks.schema import Schema

    if args.file is None:
        raise UserError(
            "--format glue needs FILE, the test file of the task (.jsonl, .tsv, .csv or .parquet)"
        )
    schema = Schema.load(
        open_model(args.model).home
    )  # all that can be wrong is told before the model is loaded
    task = glue_task(args.glue_task, schema)
    texts = read_texts(read_table(args.file), task, schema)
    from adaptive_inference.serving.predictor import load_predictor

    predictor = load_predictor(args.model, args.rule, args.threshold)
    found = []
    for answer in predictor.stream(texts, args.batch_size):
        found.append(answer)
        if sys.stderr.isatty():  # hours, for the largest test set
            print(
                f"\r{len(found)} of {len(texts)}",
                end="\n" if len(found) == len(texts) else "",
                file=sys.stderr,
            )
    text = submission(task, schema, [answer.label for answer in found])
    if args.out is None:
        sys.stdout.write(text)
    else:
        folder = args.out.endswith("/") or Path(args.out).is_dir()
        write_text(Path(args.out, task.file) if folder else Path(args.out), text)
    layers = sum(answer.exit_layer for answer in found) / len(found)
    print(f"{task.file}: {len(found)} rows, mean exit layer {layers:.2f}", file=sys.stderr)
    if len(found) != task.rows:
        print(f"note: GLUE's test set has {task.rows} rows, and the server wants them all", file=sys.stderr)


def _answer(answer: Prediction, schema: Schema) -> dict[str, Any]:
    if answer.probabilities is None or schema.labels is None:
        return {"score": round(answer.label, 6), "exit_layer": answer.exit_layer}
    row = [round(float(value), 6) for value in answer.probabilities]
    return {
        "label": answer.label,
        "probability": max(row),
        "probabilities": dict(zip(schema.labels, row, strict=True)),
        "exit_layer": answer.exit_layer,
    }


@contextlib.contextmanager
def _lines(file: Path | None) -> Iterator[IO[bytes]]:
    """Open the input as bytes: text is decoded line by line, so that a bad byte is told with its line."""
    if file is None:
        if sys.stdin.isatty():
            print("reading texts from the terminal, one per line; end with Ctrl-D", file=sys.stderr)
        yield sys.stdin.buffer
        return
    try:
        stream = file.open("rb")
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from error
    with stream:
        yield stream


def _texts(lines: IO[bytes], schema: Schema) -> Iterator[str | list[str]]:
    """Yield a text, or list of texts, per line; the first line decides whether lines are JSON objects."""
    as_json: bool | None = None
    for number, raw in enumerate(lines, 1):
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise UserError(
                f"line {number} is not UTF-8 ({error.reason}); convert the input to UTF-8"
            ) from error
        if not line.strip():
            continue
        found = line.lstrip().startswith("{") and _object(line) is not None
        if as_json is None:
            as_json = found
        if not as_json and (found or line.lstrip().startswith('{"')):
            raise UserError(
                f"line {number} {'is' if found else 'looks like'} a JSON object, "
                + ("but the lines before it are plain text" if found else "but cannot be read as one")
                + "; give one JSON object per line, or plain text alone"
            )
        if as_json:
            yield _from_object(line, number, schema)
        elif len(schema.text) > 1:
            raise UserError(
                f"line {number} is plain text, but task {schema.task} reads {len(schema.text)} texts; give one JSON "
                f"object per line with the keys {', '.join(schema.text)}"
            )
        else:
            yield line


def _object(line: str) -> dict[str, Any] | None:
    try:
        body = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def _from_object(line: str, number: int, schema: Schema) -> str | list[str]:
    body = _object(line)
    if body is None:
        raise UserError(f"line {number} is no JSON object, but the lines before it are; one object per line")
    columns = list(schema.text)
    if len(columns) == 1 and columns[0] not in body and "text" in body:
        columns = ["text"]
    for name in columns:
        if name not in body:
            given = ", ".join(body) or "none"
            raise UserError(f"line {number} has no key {name!r} (keys: {given}){nearest(name, list(body))}")
        if not isinstance(body[name], str):
            raise UserError(f"line {number}: {name!r} is {json.dumps(body[name])}, not a string")
        try:
            body[name].encode()
        except UnicodeEncodeError as error:
            raise UserError(f"line {number}: {name!r} holds half a character ({error.reason})") from error
    texts = [body[name] for name in columns]
    return texts[0] if len(texts) == 1 else texts


def _export(args: argparse.Namespace) -> None:
    from adaptive_inference.serving.export import export

    export(args.run_folder, args.out)
    print(f"wrote {args.out}; try: echo 'a text' | adaptive-inference predict {args.out}")


if __name__ == "__main__":
    raise SystemExit(main())
