"""Finished requests survive a crash, and the file of another measurement is not gone on with."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptive_inference.errors import UserError
from adaptive_inference.generation.journal import Journal

HEAD = {"threshold": 0.9, "prompts": ["a", "b"]}


def write(path, *lines, head=HEAD):
    with Journal(path, head) as journal:
        for line in lines:
            journal.add(line)


def lines_of(path, head=HEAD):
    with Journal(path, head) as journal:
        return journal.lines


def test_what_was_added_is_there_and_is_added_to(tmp_path):
    file = tmp_path / "new folder" / "requests.jsonl"
    assert lines_of(file) == []
    write(file, {"request": 0}, {"request": 1, "text": "ä\nb"})
    write(file, {"request": 2})
    assert lines_of(file) == [{"request": 0}, {"request": 1, "text": "ä\nb"}, {"request": 2}]


def test_each_line_is_on_disk_before_the_next_request_starts(tmp_path):
    file = tmp_path / "requests.jsonl"
    with Journal(file, HEAD) as journal:
        journal.add({"request": 0})
        assert json.loads(file.read_text().splitlines()[-1]) == {"request": 0}


@pytest.fixture(scope="module")
def three_lines(tmp_path_factory):
    file = tmp_path_factory.mktemp("whole") / "requests.jsonl"
    write(file, *({"request": number, "tokens": [number] * 5} for number in range(3)))
    return file.read_bytes()


@given(data=st.data())
def test_a_file_cut_anywhere_keeps_its_whole_lines_and_goes_on(three_lines, tmp_path_factory, data):
    length = data.draw(st.integers(0, len(three_lines)))
    file = tmp_path_factory.mktemp("cut") / "requests.jsonl"
    file.write_bytes(three_lines[:length])
    kept = max(0, three_lines[:length].count(b"\n") - 1)  # the first line is the head
    assert [line["request"] for line in lines_of(file)] == [*range(kept)]
    write(file, *({"request": number, "tokens": [number] * 5} for number in range(kept, 3)))
    assert file.read_bytes() == three_lines


def test_a_request_that_fails_leaves_those_finished(tmp_path):
    file = tmp_path / "requests.jsonl"

    def fails():
        with Journal(file, HEAD) as journal:
            journal.add({"request": 0})
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        fails()
    assert lines_of(file) == [{"request": 0}]


def test_another_measurement_and_a_damaged_file_are_refused_and_left_alone(tmp_path):
    file = tmp_path / "requests.jsonl"
    write(file, {"request": 0})
    before = file.read_bytes()
    with pytest.raises(UserError, match=r"requests.jsonl holds requests of another measurement .* delete it"):
        Journal(file, HEAD | {"threshold": 0.8})
    assert file.read_bytes() == before
    file.write_bytes(before.replace(b'{"request"', b'{request"'))
    with pytest.raises(UserError, match="no JSON"):
        Journal(file, HEAD)


def test_the_order_of_settings_does_not_matter(tmp_path):
    file = tmp_path / "requests.jsonl"
    write(file, {"request": 0})
    assert lines_of(file, dict(reversed(HEAD.items()))) == [{"request": 0}]
