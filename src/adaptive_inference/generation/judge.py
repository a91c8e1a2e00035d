"""Many questions to a judge: side by side, each answer kept as soon as it is there, none asked twice.

Answers are kept as JSON lines, each under the digest of the request that it answers. So a run that was killed goes on
where it was, and a changed text, model, criterion or temperature is asked anew. The file holds no key and no address.
"""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from adaptive_inference.errors import UserError
from adaptive_inference.files import digest_json
from adaptive_inference.generation.judge_endpoint import Endpoint, QuestionRefused, Stopped
from adaptive_inference.generation.judge_questions import Output, Pairwise, Question

#: How often a judge is asked whose answer cannot be read.
ASKS = 2
#: Requests at once at most: each has a thread.
MOST_PARALLEL = 256
_FIRST = b'{"answer": '  #: how each line of a file of answers begins


@dataclass(frozen=True)
class Asked:
    """What became of questions.

    Attributes
    ----------
    verdicts
        For each question what was read (see its ``read``); None: the judge refused it, or answered in another form.
    before
        Questions whose answers were kept from an earlier run.
    refused
        Question's place -> why the endpoint would not answer it.
    unread
        Question's place -> the answer that could not be read.
    """

    verdicts: list[Any]
    before: int
    refused: dict[int, str]
    unread: dict[int, str]


def ask_all(
    questions: Sequence[Question],
    endpoint: Endpoint,
    kept: Path,
    parallel: int = 8,
    told: Callable[[int], None] = lambda count: None,
) -> Asked:
    """Ask questions, each request once, and keep every answer that can be read.

    Parameters
    ----------
    questions
        Equal ones are one request.
    endpoint
        The judge.
    kept
        File of answers; those in it are not asked again, new ones are added.
    parallel
        Requests at once at most.
    told
        Called with the number of questions that have just been settled, from this thread.

    Raises
    ------
    UserError
        The endpoint cannot be used (what was answered till then is kept), or the file is none of answers.
    """
    if not 1 <= parallel <= MOST_PARALLEL:
        raise UserError(
            f"{parallel} requests at once must be a whole number from 1 to {MOST_PARALLEL}, e.g. 8"
        )
    digests = [digest_json(endpoint.body(question.prompt)) for question in questions]
    places: dict[str, list[int]] = {}
    for place, digest in enumerate(digests):
        places.setdefault(digest, []).append(place)
    verdicts: list[Any] = [None] * len(questions)
    refused: dict[int, str] = {}
    unread: dict[int, str] = {}

    answers = _read_kept(kept)
    for digest in [digest for digest in places if digest in answers]:
        verdict = questions[places[digest][0]].read(answers[digest])
        if verdict is not None:
            for place in places.pop(digest):
                verdicts[place] = verdict
    before = sum(verdict is not None for verdict in verdicts)
    told(before)

    waiting = {digest: questions[same[0]] for digest, same in places.items()}
    with _Kept(kept) as file, closing(_answers(waiting, endpoint, parallel)) as answered:
        for digest, found in answered:
            same, question = places[digest], waiting[digest]
            if isinstance(found, QuestionRefused):
                refused |= dict.fromkeys(same, str(found))
            elif (verdict := question.read(found)) is None:
                unread |= dict.fromkeys(same, found)
            else:
                file.add({"request": digest, "row": question.row, "verdict": verdict, "answer": found})
                for place in same:
                    verdicts[place] = verdict
            told(len(same))
    return Asked(verdicts, before, refused, unread)


def both_orders(
    outputs: Sequence[Output], against: Sequence[Output], task: str, criteria: dict[str, str]
) -> list[Pairwise]:
    """Return two questions for each pair, one in each order; none for a pair of equal texts, which is a tie.

    Raises
    ------
    UserError
        The two are not for the same sources in the same order.
    """
    if len(outputs) != len(against):
        raise UserError(
            f"{len(outputs)} outputs cannot be compared with {len(against)}; give two files of the same rows"
        )
    for ours, other in zip(outputs, against, strict=True):
        if ours.source != other.source:
            raise UserError(
                f"row {ours.row} is for another source ({ours.source[:60]!r}) than row {other.row} of the file that it is "
                f"compared with ({other.source[:60]!r}); give two files of the same rows in the same order"
            )
    return [
        Pairwise(ours, other, ours_first, task, criteria)
        for ours, other in zip(outputs, against, strict=True)
        if ours.text != other.text
        for ours_first in (True, False)
    ]


# ---- requests side by side -------------------------------------------------------------------------------------------


def _answers(
    waiting: dict[str, Question], endpoint: Endpoint, parallel: int
) -> Iterator[tuple[str, str | QuestionRefused]]:
    """Yield each request's digest with its answer, or with why it was refused, as they come.

    Threads are daemons, and are not waited for when the run ends early: Ctrl-C leaves at once. What they were about to
    be told is asked again next time.
    """
    asked: SimpleQueue[tuple[str, Question]] = SimpleQueue()
    found: SimpleQueue[tuple[str, str | Exception]] = SimpleQueue()
    stop = threading.Event()
    for item in waiting.items():
        asked.put(item)

    def work() -> None:
        while not stop.is_set():
            try:
                digest, question = asked.get_nowait()
            except Empty:
                return
            try:
                found.put((digest, _read_by(question, endpoint, stop)))
            except Stopped:
                return
            except Exception as error:  # told in the thread that asked for it
                found.put((digest, error))

    for _ in range(min(parallel, len(waiting))):
        threading.Thread(target=work, daemon=True).start()
    try:
        for _ in waiting:
            digest, answer = found.get()
            if isinstance(answer, Exception) and not isinstance(answer, QuestionRefused):
                raise answer
            yield digest, answer
    finally:
        stop.set()


def _read_by(question: Question, endpoint: Endpoint, stop: threading.Event) -> str:
    """Return an answer, asked for again where it cannot be read; the last one in any case."""
    for _ in range(ASKS):
        answer = endpoint.ask(question.prompt, stop)
        if question.read(answer) is not None:
            break
    return answer


# ---- the file of answers ---------------------------------------------------------------------------------------------


class _Kept:
    """Adds lines to a file, each whole on the disk before the next; the file is made with the first one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: Any = None

    def __enter__(self) -> _Kept:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, row: dict[str, Any]) -> None:
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab")
            _cut_half_line(self._path)
        self._file.write(json.dumps(row, sort_keys=True, ensure_ascii=False).encode() + b"\n")
        self._file.flush()


def _cut_half_line(path: Path) -> None:
    """Take away what a killed writer left after the last line end."""
    raw = path.read_bytes()
    if not raw.endswith(b"\n"):
        os.truncate(path, raw.rfind(b"\n") + 1)


def _read_kept(path: Path) -> dict[str, str]:
    """Return the answers of a file by the digest of their request; a half last line was never an answer."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); name a file of answers") from error
    whole = raw[: raw.rfind(b"\n") + 1]
    if not whole and not _FIRST.startswith(raw[: len(_FIRST)]):
        raise UserError(f"{path} holds no answers of a judge; name another file, or a new one")
    answers = {}
    for number, line in enumerate(whole.split(b"\n")[:-1], start=1):
        try:
            row = json.loads(line)
            digest, answer = row["request"], row["answer"]
            if not (isinstance(digest, str) and isinstance(answer, str)):
                raise TypeError
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise UserError(
                f"{path}, line {number}, is no answer of a judge; name another file, or take that line away"
            ) from error
        answers[digest] = answer
    return answers


def reasons(asked: Asked) -> list[tuple[str, int]]:
    """Return why questions have no verdict, each reason with its count, the most frequent first."""
    told = [f"refused: {why}" for why in asked.refused.values()]
    told += [f"answered {answer[:80]!r}" for answer in asked.unread.values()]
    return Counter(told).most_common()
