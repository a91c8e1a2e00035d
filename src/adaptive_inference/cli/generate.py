"""``adaptive-inference generate``: write texts with a saved decoder."""

from __future__ import annotations

import argparse
import json
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
    check_batch_size,
)
from adaptive_inference.cli.streaming import Clock, answered, counted
from adaptive_inference.errors import UserError

if TYPE_CHECKING:
    from adaptive_inference.cli.rows import Row
    from adaptive_inference.serving.generator import Generated, Generator
    from adaptive_inference.tasks.text_schema import TextSchema

TEXT = """Write the answer to each text with a saved decoder; a token leaves early where the model is sure of it.

A file that ends in .csv, .tsv, .jsonl (.gz as well) or .parquet is a table: its text columns are those that the model was
trained on, or those that --column names. Any other file, and standard input, is one text per line, or one JSON object per
line. Blank lines, and blank cells of a CSV or TSV, are skipped.

JSON lines come out: the line of the text (of a Parquet file, the row), the text written, its tokens with the number of
decoder blocks that each came from (depth), the blocks computed per token, the share of the full model's FLOPs, whether the
text to read was cut because it is longer than the model reads, and whether the answer ended by itself. The closing summary,
progress and errors go to standard error. Nothing to answer is an error: status 2.

Policies: full (every block), static (the first blocks alone), calm (each token leaves after the first block that is sure),
keep (FREE: it leaves at the exit layer, and the blocks above catch up), roll_back (keep, but unlikely tokens are taken
back), verify (lossless: the text of the full model, token for token). Default: the folder's own, calibrated."""

EXAMPLES = """examples:
  echo 'ein Hund im Schnee' | adaptive-inference generate exported/
  adaptive-inference generate exported/ test.jsonl --batch-size 16 > answers.jsonl
  adaptive-inference generate exported/ questions.csv --column question --column context --max-new-tokens 30
  adaptive-inference generate exported/ texts.txt --policy verify --threshold 0.6
  adaptive-inference generate runs/multi30k/t5_small/seed0/free texts.txt --policy full"""


def add(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "generate", _generate, "write texts with a saved decoder", TEXT, EXAMPLES)
    parser.add_argument(
        "model", metavar="MODEL", help="exported folder, a method's run folder, or a hub's id, OWNER/NAME"
    )
    parser.add_argument(
        "file", metavar="FILE", nargs="?", type=Path, help="a table or lines of text; default: standard input"
    )
    add_column(parser)
    parser.add_argument("--policy", metavar="NAME", help="see above; default: the folder's own")
    parser.add_argument(
        "--threshold",
        type=float,
        help="from 0 to 1: a token leaves where the model is surer than that; 1: never; default: the calibrated one",
    )
    parser.add_argument(
        "--exit-layer", metavar="K", type=int, help="blocks of the shallow model; default: as trained"
    )
    parser.add_argument(
        "--max-new-tokens", metavar="N", type=int, help="default: the longest target in training"
    )
    add_batch_size(parser, 1, "texts at once, e.g. 16 for a file; 1 (default) answers line by line")
    add_device(parser)
    parser.add_argument("--revision", help="of a hub's id: commit, branch or tag; default: the newest")


def _generate(args: argparse.Namespace) -> None:
    """Tell all that can be wrong before a model, and torch with it, is loaded; then write."""
    from adaptive_inference.cli.rows import open_rows
    from adaptive_inference.serving.generator import Generator, check_length
    from adaptive_inference.serving.generator_dir import open_generator
    from adaptive_inference.serving.hub import model_folder

    check_batch_size(args.batch_size)
    saved = open_generator(model_folder(args.model, args.revision))
    policy, adaptive = saved.asked(args.policy, args.threshold, args.exit_layer)
    check_length(args.max_new_tokens, saved.schema)
    with open_rows(args.file, args.column, saved.schema) as rows:
        generator, tally = Generator(saved, args.device), Tally()
        chosen = None if adaptive else policy
        stream = partial(
            generator.stream,
            policy=chosen,
            batch_size=args.batch_size,
            max_new_tokens=args.max_new_tokens,
        )
        check = partial(_check, schema=saved.schema)
        for row, answer in answered(stream, rows.found, rows.total, "text", tally, check):
            tally.add(answer)
            print(json.dumps(_fields(row.line, answer), ensure_ascii=False), flush=True)
        if not tally.texts:
            raise UserError(f"{rows.origin} holds no text to answer")
    print(tally.summary(generator, rows.blank), file=sys.stderr)


def _check(row: Row, schema: TextSchema) -> None:
    from adaptive_inference.serving.generator import source_of

    try:
        source_of(row.texts, schema)
    except UserError as error:
        raise UserError(f"line {row.line}: {error}") from None


def _fields(line: int, answer: Generated) -> dict[str, Any]:
    return {
        "line": line,
        "text": answer.text,
        "tokens": answer.tokens,
        "depth": answer.depth,
        "blocks": round(answer.blocks, 4),
        "flops_share": round(answer.flops_share, 4),
        "cut": answer.cut,
        "ended": answer.ended,
    }


@dataclass
class Tally(Clock):
    """What the closing summary tells."""

    texts: int = 0
    tokens: int = 0
    blocks: float = 0.0
    cut: int = 0
    unended: int = 0

    def add(self, answer: Generated) -> None:
        """Count one answer."""
        self.texts += 1
        self.tokens += len(answer.ids)
        self.blocks += answer.blocks * len(answer.ids)
        self.cut += answer.cut
        self.unended += not answer.ended

    def summary(self, generator: Generator, blank: int = 0) -> str:
        """Return one line, or two where something was left out."""
        told = (
            f"{counted(self.texts, 'text')}, {counted(self.tokens, 'token')}, {self.blocks / self.tokens:.2f} of "
            f"{generator.num_blocks} blocks per token, {self.tokens / self.seconds:.3g} tokens/s"
        )
        notes = []
        if self.cut:
            limit = generator.schema.max_source
            notes.append(f"{counted(self.cut, 'text')} longer than {limit} tokens: cut there")
        if self.unended:
            notes.append(f"{counted(self.unended, 'answer')} stopped at the most new tokens")
        if blank:
            notes.append(f"{counted(blank, 'row')} without a text left out")
        return "\n".join([told, *([f"note: {'; '.join(notes)}"] if notes else [])])
