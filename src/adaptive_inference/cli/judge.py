"""``adaptive-inference judge``: let a language model of your choice judge what a model wrote."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptive_inference.cli.options import add_command
from adaptive_inference.errors import UserError

if TYPE_CHECKING:
    from adaptive_inference.generation.judge import Asked
    from adaptive_inference.generation.judge_endpoint import Endpoint
    from adaptive_inference.generation.judge_questions import Output, Question

#: Variables of the environment: the address below which /chat/completions is, and the key.
URL, KEY = "ADAPTIVE_JUDGE_URL", "ADAPTIVE_JUDGE_KEY"

TEXT = f"""Let a language model judge what a model wrote, through any OpenAI-compatible endpoint.
Sources and outputs are sent there.

{URL} holds its address, e.g. https://HOST/v1, and {KEY} its key where it wants one; the key
is neither printed nor stored. OUTPUTS is a table (.jsonl, .csv, .tsv, .gz of these, .parquet) of sources and of texts
written for them.

Without --against each text gets marks from 1 to 5 by each criterion (Likert). With --against, a table of the same
sources in the same order, the judge says which of the two texts is better. It is asked in both orders, and where they
disagree it is a tie, so that a liking for the first place decides nothing. Equal texts are a tie that is not asked about.

Each answer is added to --out as it comes. The same command again, after a stop or a failure, asks only what is missing.
A busy or silent endpoint is asked again after a while. The table goes to standard output, progress and notes to
standard error."""

EXAMPLES = f"""examples:
  export {URL}=https://HOST/v1 {KEY}=...
  adaptive-inference judge free.jsonl --model MODEL --out likert.jsonl --dry-run
  adaptive-inference judge free.jsonl --model MODEL --out likert.jsonl
  adaptive-inference judge free.jsonl --against full.jsonl --model MODEL --out pairs.jsonl --rows 100
  adaptive-inference judge free.jsonl --model MODEL --out mt.jsonl --task 'an English translation of the source' \\
      --criterion 'adequacy=it says all that the source says' --criterion 'fluency=it reads like good English'"""


def add(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands, "judge", _judge, "let a language model judge what a model wrote", TEXT, EXAMPLES
    )
    parser.add_argument("file", metavar="OUTPUTS", type=Path, help="table of sources and outputs")
    parser.add_argument("--model", required=True, help="the judge, as the endpoint calls it")
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        required=True,
        help="answers, as JSON lines; kept ones are not asked again",
    )
    parser.add_argument(
        "--against", metavar="FILE", type=Path, help="other outputs to compare with, row by row"
    )
    parser.add_argument(
        "--source", metavar="NAME", default="source", help="column of the sources (default: source)"
    )
    parser.add_argument(
        "--text", metavar="NAME", default="text", help="column of the outputs (default: text)"
    )
    parser.add_argument(
        "--task",
        metavar="PHRASE",
        default="a summary of the source",
        help="what an output should be (default: 'a summary of the source')",
    )
    parser.add_argument(
        "--criterion",
        metavar="NAME=MEANING",
        action="append",
        help="judge by this; repeat for more; default: relevance, informativeness, fluency, coherence",
    )
    parser.add_argument("--rows", metavar="N", type=int, help="judge the first N rows alone")
    parser.add_argument("--parallel", metavar="N", type=int, default=8, help="requests at once (default: 8)")
    parser.add_argument("--temperature", type=float, default=0.0, help="of the judge (default: 0)")
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=float, default=120.0, help="of one request (default: 120)"
    )
    parser.add_argument(
        "--attempts",
        metavar="N",
        type=int,
        default=6,
        help="at one question while there is no answer (default: 6)",
    )
    parser.add_argument(
        "--summary", metavar="FILE", type=Path, help="write the table's numbers here too, as JSON"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="ask nothing: print the first question and how many there are"
    )


def _judge(args: argparse.Namespace) -> None:
    from adaptive_inference.evaluation.judged import likert_table, pairwise_table
    from adaptive_inference.files import write_json
    from adaptive_inference.generation.judge import ask_all, both_orders, reasons
    from adaptive_inference.generation.judge_questions import Likert, check_criteria

    criteria = _criteria(args.criterion)
    check_criteria(criteria)
    outputs = read_outputs(args.file, args.source, args.text, args.rows)
    questions: Sequence[Question]
    if args.against is None:
        questions = [Likert(output, args.task, criteria) for output in outputs]
    else:
        others = read_outputs(args.against, args.source, args.text, args.rows)
        questions = both_orders(outputs, others, args.task, criteria)
    if args.dry_run:
        print(questions[0].prompt if questions else "(all texts are equal)")
        print(f"nothing was asked; questions: {len(questions)}", file=sys.stderr)
        return
    endpoint = _endpoint(args)
    with _progress(len(questions)) as told:
        asked = ask_all(questions, endpoint, args.out, args.parallel, told)
    why = reasons(asked)
    if questions and len(asked.refused) + len(asked.unread) == len(questions):
        raise UserError(
            f"{args.model!r} gave no verdict on any of {len(questions)} questions; it {why[0][0]}"
        )
    found = _summary(args, outputs, questions, asked, list(criteria))
    print(
        f"judge {args.model}, {args.file}{'' if args.against is None else f' against {args.against}'}: {args.task}"
    )
    print(likert_table(found) if args.against is None else pairwise_table(found))
    for reason, count in why[:5]:
        print(f"note: {count} without a verdict: {reason}", file=sys.stderr)
    if args.summary is not None:
        write_json(args.summary, found)


def read_outputs(file: Path, source: str, text: str, rows: int | None) -> list[Output]:
    """Return the rows of a table of outputs; an empty output is one.

    Raises
    ------
    UserError
        The table cannot be read, a column is not there, or a cell holds no text.
    """
    from adaptive_inference.cli.rows import no_column, open_table
    from adaptive_inference.generation.judge_questions import Output

    if rows is not None and rows < 1:
        raise UserError(f"--rows {rows} must be a whole number from 1, e.g. 100")
    table = open_table(file)
    for column, option in ((source, "--source"), (text, "--text")):
        if column not in table.columns:
            raise UserError(no_column(table, column, option))
    lines = table.lines or range(1, len(table.rows) + 1)
    found = []
    for line, row in list(zip(lines, table.rows, strict=True))[:rows]:
        cells = [
            "" if row.get(name) is None and table.blank_is_null else row.get(name) for name in (source, text)
        ]
        for name, cell in zip((source, text), cells, strict=True):
            if not isinstance(cell, str):
                raise UserError(f"{table.origin}, row at {line}: {name!r} is {cell!r:.80}, not a string")
            try:
                cell.encode()
            except UnicodeEncodeError as error:
                raise UserError(
                    f"{table.origin}, row at {line}: {name!r} holds half a character; write it again as UTF-8"
                ) from error
        found.append(Output(line, *cells))
    return found


def _criteria(given: Sequence[str] | None) -> dict[str, str]:
    from adaptive_inference.generation.judge_questions import CRITERIA

    if given is None:
        return CRITERIA
    pairs = [tuple(part.strip() for part in item.partition("=")[::2]) for item in given]
    if len(dict(pairs)) < len(pairs):
        raise UserError(f"--criterion {', '.join(name for name, _ in pairs)}: each may be given once")
    return dict(pairs)


def _endpoint(args: argparse.Namespace) -> Endpoint:
    from adaptive_inference.generation.judge_endpoint import Endpoint

    url = os.environ.get(URL, "").strip()
    if not url:
        raise UserError(
            f"no judge is set; give the address of an OpenAI-compatible endpoint (export {URL}=https://HOST/v1) and its "
            f"key, where it wants one, in {KEY}"
        )
    key = os.environ.get(KEY, "").strip()
    return Endpoint(
        url, args.model, key, temperature=args.temperature, timeout=args.timeout, attempts=args.attempts
    )


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """Show how far it is where a person looks on."""
    from tqdm import tqdm

    hidden = not sys.stderr.isatty()
    with tqdm(total=total, unit="question", file=sys.stderr, disable=hidden, leave=False) as bar:
        yield lambda count: bar.update(count) and None


def _summary(
    args: argparse.Namespace,
    outputs: Sequence[Output],
    questions: Sequence[Any],
    asked: Asked,
    criteria: Sequence[str],
) -> dict[str, Any]:
    from adaptive_inference.evaluation.judged import likert_summary, pairwise_summary

    if args.against is None:
        found = likert_summary(asked.verdicts, criteria)
    else:
        found = pairwise_summary(outputs, questions, asked.verdicts)
    kind = "likert" if args.against is None else "pairwise"
    return {"kind": kind, "model": args.model, "temperature": args.temperature, "task": args.task} | found
