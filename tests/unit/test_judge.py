"""Questions to a judge: what is asked, how answers are read, that nothing is asked twice, and what verdicts add up to."""

import errno
import json
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stub_judge import GOOD, KEY, MARKS, Reply, by_length, stub_judge

from adaptive_inference.errors import UserError
from adaptive_inference.evaluation.judged import likert_summary, pairwise_summary, pairwise_table
from adaptive_inference.generation.judge import _Kept, ask_all, both_orders
from adaptive_inference.generation.judge_endpoint import Endpoint
from adaptive_inference.generation.judge_questions import CRITERIA, Likert, Output, Pairwise

TASK = "a summary of the source"


@pytest.fixture
def judge(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with stub_judge() as running:
        yield running


@pytest.fixture
def kept(tmp_path):
    return tmp_path / "answers.jsonl"


def endpoint(judge, **changed):
    return Endpoint(
        **({"url": judge.url, "model": "m", "key": KEY, "timeout": 10.0, "first_wait": 0.0} | changed)
    )


def outputs(*texts, source="source {}"):
    return [Output(row, source.format(row), text) for row, text in enumerate(texts, start=1)]


def likert(*texts):
    return [Likert(output, TASK, CRITERIA) for output in outputs(*texts)]


# ---- questions and answers -------------------------------------------------------------------------------------------


def test_a_question_holds_source_text_task_and_criteria():
    prompt = Likert(
        Output(1, "the source's words", "the output's words"), "a haiku", {"rhythm": "5, 7, 5"}
    ).prompt
    for part in (
        "the source's words",
        "the output's words",
        "a haiku",
        "- rhythm: 5, 7, 5",
        '{"rhythm": MARK}',
    ):
        assert part in prompt


@pytest.mark.parametrize(
    "answer",
    [
        GOOD,
        f"```json\n{GOOD}\n```",
        f'First {{"relevance": 1}} I thought, but: {GOOD}',
        json.dumps({"marks": MARKS}),
        json.dumps({name.upper(): float(mark) for name, mark in MARKS.items()} | {"why": "short"}),
    ],
)
def test_marks_are_read_wherever_they_stand(answer):
    assert likert("x")[0].read(answer) == MARKS


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "4",
        "Relevance: 4",
        json.dumps(MARKS | {"fluency": 0}),
        json.dumps(MARKS | {"fluency": 6}),
        json.dumps(MARKS | {"fluency": 4.5}),
        json.dumps(MARKS | {"fluency": True}),
        json.dumps(MARKS | {"fluency": "4"}),
        json.dumps(MARKS | {"fluency": None}),
        GOOD.replace("5", "NaN"),
        GOOD.replace("5", "1e999"),
        json.dumps({"relevance": 3}),
        "{" * 50_000,
    ],
)
def test_an_answer_without_all_marks_is_none(answer):
    assert likert("x")[0].read(answer) is None


def test_a_letter_names_the_text_that_was_shown_there():
    ours, other = outputs("ours")[0], outputs("other")[0]
    first, second = (Pairwise(ours, other, ours_first, TASK, CRITERIA) for ours_first in (True, False))
    assert first.prompt.index("\nours\n") < first.prompt.index("\nother\n")
    assert second.prompt.index("\nours\n") > second.prompt.index("\nother\n")
    for answer in ("A", " a.\n", '"A"', "**A**", "Output A", "B is short.\n\nA"):
        assert (first.read(answer), second.read(answer)) == ("ours", "other")
    assert (first.read("B"), second.read("B")) == ("other", "ours")
    for answer in ("", "C", "AB", "A or B", "A is better", "A\nNone", "neither"):
        assert first.read(answer) is None


# ---- asking many -----------------------------------------------------------------------------------------------------


def test_verdicts_stand_in_the_order_of_their_questions(judge, kept):
    judge.answer = lambda prompt, before: json.dumps(dict.fromkeys(CRITERIA, 1 + prompt.count("!") % 5))
    told = []
    asked = ask_all(likert(*("!" * n for n in range(20))), endpoint(judge), kept, 4, told.append)
    assert [verdict["fluency"] for verdict in asked.verdicts] == [1 + n % 5 for n in range(20)]
    assert (asked.before, asked.refused, asked.unread, sum(told)) == (0, {}, {}, 20)


def test_requests_run_side_by_side_up_to_a_limit(judge, kept):
    full, hold = threading.Event(), threading.Event()

    def answer(prompt, before):
        if judge.most_running == 3:
            full.set()
        return Reply(GOOD, hold=hold)

    judge.answer = answer
    threading.Thread(target=lambda: (full.wait(20), hold.set()), daemon=True).start()
    ask_all(likert(*"abcdefgh"), endpoint(judge), kept, 3)
    assert full.is_set()
    assert judge.most_running == 3


def test_equal_questions_are_one_request(judge, kept):
    judge.answer = lambda prompt, before: GOOD
    asked = ask_all(likert("a") * 3 + likert("b"), endpoint(judge), kept)
    assert len(judge.bodies) == 2
    assert asked.verdicts == [MARKS] * 4


def test_what_is_kept_is_not_asked_again_and_what_changed_is(judge, kept):
    judge.answer = lambda prompt, before: GOOD
    ask_all(likert("a", "b"), endpoint(judge), kept)
    asked = ask_all(likert("a", "b", "c"), endpoint(judge), kept)
    assert (asked.before, len(judge.bodies)) == (2, 3)
    ask_all(likert("a"), endpoint(judge, model="other"), kept)
    ask_all(likert("a"), endpoint(judge, temperature=1.0), kept)
    ask_all([Likert(outputs("a")[0], "a title", CRITERIA)], endpoint(judge), kept)
    assert len(judge.bodies) == 6
    ask_all(likert("a", "b", "c"), endpoint(judge, attempts=2, timeout=9.0), kept)
    assert len(judge.bodies) == 6, "how patiently it is asked changes no answer"


def test_an_answer_that_cannot_be_read_is_asked_for_once_more_then_told_and_asked_again_next_time(
    judge, kept
):
    judge.answer = lambda prompt, before: "well..." if "\nb\n" in prompt and before < 3 else GOOD
    asked = ask_all(likert("a", "b"), endpoint(judge), kept)
    assert asked.verdicts == [MARKS, None]
    assert asked.unread == {1: "well..."}
    assert len(judge.bodies) == 3
    assert len(kept.read_text().splitlines()) == 1
    assert ask_all(likert("a", "b"), endpoint(judge), kept).verdicts == [MARKS, MARKS]


def test_one_refused_question_does_not_stop_the_others(judge, kept):
    judge.answer = lambda prompt, before: Reply("too long", 400) if "\nb\n" in prompt else GOOD
    asked = ask_all(likert("a", "b", "c"), endpoint(judge), kept)
    assert asked.verdicts == [MARKS, None, MARKS]
    assert asked.refused == {1: "status 400: too long"}


def test_a_failing_endpoint_ends_the_run_and_keeps_what_was_answered(judge, kept):
    judge.answer = lambda prompt, before: (
        GOOD if "\na\n" in prompt or "\nb\n" in prompt else Reply("down", 503)
    )
    with pytest.raises(UserError, match="no answer in 2 attempts"):
        ask_all(likert(*"abcdef"), endpoint(judge, attempts=2), kept, 1)
    assert len(kept.read_text().splitlines()) == 2
    assert len(judge.bodies) <= 2 + 2 * 2, "the others are not asked any more"
    judge.answer = lambda prompt, before: GOOD
    assert ask_all(likert(*"abcdef"), endpoint(judge), kept).before == 2


def test_a_line_that_a_killed_run_left_half_is_dropped(judge, kept):
    judge.answer = lambda prompt, before: GOOD
    ask_all(likert("a", "b"), endpoint(judge), kept, 1)
    whole = kept.read_bytes()
    second = whole.index(b"\n") + 1
    for cut in (1, 5, second - 1, second, second + 1, len(whole) - 1):
        kept.write_bytes(whole[:cut])
        assert ask_all(likert("a", "b"), endpoint(judge), kept, 1).before == (cut >= second)
        assert kept.read_bytes() == whole


def test_a_file_of_something_else_is_refused_and_left_as_it_is(judge, kept):
    for other in (b"my notes", b"my notes\n", b'{"source": "a", "text": "b"}\n', b"\xff\n", b"[]\n", b"\n"):
        kept.write_bytes(other)
        with pytest.raises(UserError, match=r"answers of a judge|answer of a judge"):
            ask_all(likert("a"), endpoint(judge), kept)
        assert kept.read_bytes() == other
    with pytest.raises(UserError, match="cannot be read"):
        ask_all(likert("a"), endpoint(judge), kept.parent)
    assert judge.bodies == []


def test_a_full_disk_ends_the_run_and_leaves_no_thread_asking(judge, kept, monkeypatch):
    def full(self, row):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(_Kept, "add", full)
    hold = threading.Event()
    judge.answer = lambda prompt, before: GOOD if "\na\n" in prompt else Reply(GOOD, hold=hold)
    before = threading.active_count()
    with pytest.raises(OSError, match="No space left"):
        ask_all(likert(*"abcdefgh"), endpoint(judge), kept, 1)
    hold.set()
    until = time.monotonic() + 20
    while threading.active_count() > before and time.monotonic() < until:
        time.sleep(0.01)
    assert len(judge.bodies) <= 2, "only the one that was under way"


@pytest.mark.parametrize("parallel", [0, -1, 257])
def test_a_number_of_requests_out_of_range_is_refused(judge, kept, parallel):
    with pytest.raises(UserError, match="whole number from 1 to 256"):
        ask_all(likert("a"), endpoint(judge), kept, parallel)


# ---- pairs -----------------------------------------------------------------------------------------------------------


def compared(judge, kept, ours, others):
    questions = both_orders(ours, others, TASK, CRITERIA)
    return pairwise_summary(ours, questions, ask_all(questions, endpoint(judge), kept).verdicts)


def test_a_better_text_wins_in_both_orders_and_a_liking_for_a_place_is_a_tie(judge, kept):
    ours, others = outputs("long text", "b", "same"), outputs("a", "long text", "same")
    judge.answer = by_length
    found = compared(judge, kept, ours, others)
    assert (found["wins"], found["ties"], found["losses"], found["first"]) == (1, 1, 1, 0.5)
    assert len(judge.bodies) == 4, "equal texts are not asked about"
    judge.answer = lambda prompt, before: "A"
    found = compared(judge, kept.with_name("other"), ours, others)
    assert (found["wins"], found["ties"], found["losses"], found["first"]) == (0, 3, 0, 1.0)
    assert (found["equal"], found["disagree"]) == (1, 2)


@given(
    st.lists(st.tuples(st.sampled_from(["equal", "ours", "other", None]), st.sampled_from(["ours", "other"])))
)
@settings(deadline=None, max_examples=50)
def test_exchanging_the_files_exchanges_wins_and_losses(rows):
    ours = outputs(*("ours" for _ in rows))
    others = outputs(*("ours" if first == "equal" else "other" for first, _ in rows))
    said = [verdict for row in rows if row[0] != "equal" for verdict in row]
    turned = {"ours": "other", "other": "ours", None: None}
    one = pairwise_summary(ours, both_orders(ours, others, TASK, CRITERIA), said)
    # the other way round, each pair's two prompts come in the other order
    back = [turned[verdict] for place in range(0, len(said), 2) for verdict in said[place : place + 2][::-1]]
    two = pairwise_summary(others, both_orders(others, ours, TASK, CRITERIA), back)
    assert (one["wins"], one["losses"]) == (two["losses"], two["wins"])
    for same in ("rows", "without", "ties", "equal", "disagree", "first"):
        assert one[same] == two[same]
    assert one["rows"] + one["without"] == len(rows)
    if one["rows"]:
        assert one["score"]["mean"] == pytest.approx((one["wins"] + one["ties"] / 2) / one["rows"])
        assert one["score"]["low"] <= one["score"]["mean"] <= one["score"]["high"]
    pairwise_table(one)


def test_files_of_other_rows_are_refused():
    with pytest.raises(UserError, match="2 outputs cannot be compared with 1"):
        both_orders(outputs("a", "b"), outputs("a"), TASK, CRITERIA)
    with pytest.raises(UserError, match="row 1 is for another source"):
        both_orders(outputs("a"), outputs("a", source="else {}"), TASK, CRITERIA)


# ---- what verdicts add up to -----------------------------------------------------------------------------------------


def test_marks_are_averaged_over_rows_with_a_verdict():
    found = likert_summary([{"a": 1, "b": 5}, None, {"a": 4, "b": 5}], ["a", "b"])
    assert (found["rows"], found["without"]) == (2, 1)
    assert {name: of["mean"] for name, of in found["marks"].items()} == {"a": 2.5, "b": 5.0, "mean": 3.75}
    assert (found["marks"]["b"]["low"], found["marks"]["b"]["high"]) == (5.0, 5.0)
    assert found["marks"]["a"]["low"] == 1.0
    assert likert_summary([None], ["a"])["marks"]["mean"] == {"mean": None, "low": None, "high": None}


def test_the_interval_is_as_wide_as_the_spread_of_rows_says():
    marks = np.random.default_rng(0).integers(1, 6, 400)
    of = likert_summary([{"a": int(mark)} for mark in marks], ["a"])["marks"]["a"]
    half = 1.96 * marks.std() / 20
    assert of["low"] == pytest.approx(marks.mean() - half, abs=0.15 * half)
    assert of["high"] == pytest.approx(marks.mean() + half, abs=0.15 * half)
