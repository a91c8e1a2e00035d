"""Quality, agreement and cost of ways to decode; their wall-clock; and both gone on with after a crash."""

from __future__ import annotations

import pytest
import torch

from adaptive_inference.decoders._tiny import BLOCKS, tiny_decoder
from adaptive_inference.decoding.adaptive import AdaptiveThreshold
from adaptive_inference.decoding.generate import EarlyExitDecoding
from adaptive_inference.decoding.policy import DecodingPolicy
from adaptive_inference.errors import UserError
from adaptive_inference.evaluation.request_latency import summarise_times, time_requests
from adaptive_inference.generation.answers import Answering
from adaptive_inference.generation.cost import DecoderCost
from adaptive_inference.generation.journal import Journal
from adaptive_inference.generation.measure import (
    agreement,
    answer_all,
    summarise_answers,
)

LONGEST = 6


@pytest.fixture(scope="module", params=["t5", "llama"])
def setting(request):
    model = tiny_decoder(request.param, attn_implementation="eager")
    torch.manual_seed(1)
    requests = [{"input_ids": torch.randint(3, 50, (1, columns))} for columns in (4, 2, 6)]
    return model, requests, DecoderCost(model)


def ways_of(model) -> list[Answering]:
    keep = {"kind": "keep", "exit_layer": 1}
    policies = {
        "loop": DecodingPolicy("full"),
        "static": DecodingPolicy("static", exit_layer=1),
        "never": DecodingPolicy(**keep, threshold=1.0),
        "always": DecodingPolicy(**keep, threshold=0.0, max_pending=None),
        "verify": DecodingPolicy("verify", exit_layer=1, threshold=0.0),
    }
    return [
        Answering("full", model),
        *(Answering(name, model, EarlyExitDecoding(policy)) for name, policy in policies.items()),
    ]


def words(tokens) -> str:
    return " ".join(map(str, tokens))


def lengths(texts) -> dict[str, float]:
    return {"length": float(sum(len(text.split()) for text in texts))}


@pytest.fixture(scope="module")
def measured(setting, tmp_path_factory):
    model, requests, cost = setting
    file = tmp_path_factory.mktemp("measured") / "answers.jsonl"
    with Journal(file, "all") as journal:
        answer_all(ways_of(model), requests, LONGEST, cost, journal)
    rows = summarise_answers(journal.lines, "full", words, lengths)
    return file, journal.lines, {row["way"]: row for row in rows}


class TestAnswers:
    def test_a_loop_of_all_blocks_is_the_full_model_in_every_figure(self, measured):
        _, _, rows = measured
        # host reads are the loop's own; plain generate's are not counted
        apart = {"way", "host_reads", "tests"}
        same = [{k: v for k, v in rows[name].items() if k not in apart} for name in ("full", "loop")]
        assert same[0] == same[1]
        assert same[0]["token_agreement"] == same[0]["sequence_agreement"] == same[0]["flops_speedup"] == 1
        assert same[0]["blocks_per_token"] == BLOCKS
        assert same[0]["agreed_where_seen"] is None

    def test_verify_writes_the_full_models_text_and_pays_for_what_it_takes_back(self, measured):
        _, lines, rows = measured
        assert rows["verify"]["sequence_agreement"] == 1
        taken_back = sum(line["taken_back"] for line in lines if line["way"] == "verify")
        assert rows["verify"]["taken_back"] == taken_back > 0
        assert (
            rows["verify"]["blocks_per_token"] > 3
        )  # random weights: nearly all that left early is taken back

    def test_never_leaving_costs_a_second_head_and_no_more_blocks(self, measured, setting):
        _, _, rows = measured
        never, full, cost = rows["never"], rows["full"], setting[2]
        assert never["blocks"] == full["blocks"]
        assert never["sequence_agreement"] == 1
        extra = never["head_rows"] - full["head_rows"]
        assert never["decoder_flops"] == full["decoder_flops"] + extra * cost.head
        assert 0 < never["flops_speedup"] < 1

    def test_always_leaving_runs_one_block_a_token_and_is_static(self, measured, setting):
        _, _, rows = measured
        static, model = rows["static"], setting[0]
        assert static["blocks_per_token"] == static["published_blocks_per_token"] == 1
        assert static["depths"] == {1: static["tokens_written"]}
        assert static["flops_speedup_per_token"] > 1
        assert static["flops_speedup_with_encoder"] <= static["flops_speedup"]
        if model.config.is_encoder_decoder:
            assert rows["always"]["decoder_flops"] == static["decoder_flops"]
            assert rows["always"]["quality"] == static["quality"]

    def test_quality_is_that_of_all_texts_in_the_order_of_the_requests(self, measured, setting):
        _, lines, _ = measured
        given = []
        summarise_answers(lines[::-1], "full", words, lambda texts: given.append(list(texts)) or {})
        mine = {line["request"]: words(line["tokens"]) for line in lines if line["way"] == "loop"}
        assert [mine[number] for number in range(len(setting[1]))] in given

    def test_ways_of_one_name_unfinished_ways_and_a_missing_full_model_are_refused(
        self, setting, measured, tmp_path
    ):
        model, requests, cost = setting
        with (
            Journal(tmp_path / "twice.jsonl", 0) as journal,
            pytest.raises(UserError, match="both named 'a'"),
        ):
            answer_all([Answering("a", model)] * 2, requests, LONGEST, cost, journal)
        _, lines, _ = measured
        with pytest.raises(UserError, match="'verify' has answered 2 requests and 'full' 3"):
            summarise_answers(lines[:-1], "full", words, lengths)
        with pytest.raises(
            UserError, match="no answers of the full model 'plain'; there are those of full, loop"
        ):
            summarise_answers(lines, "plain", words, lengths)
        two = {"input_ids": torch.ones(2, 3, dtype=torch.long)}
        with pytest.raises(UserError, match="a request of 2 rows"):
            Answering("a", model)(two, LONGEST)


class TestAfterACrash:
    def test_only_what_is_missing_is_run_and_the_file_is_the_same(self, setting, measured, tmp_path):
        model, requests, cost = setting
        whole, (file, _, _) = [], measured
        cut = tmp_path / "answers.jsonl"
        cut.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:6]) + b'{"agreed": [nu')
        ways = [Counting(way, whole) for way in ways_of(model)]
        with Journal(cut, "all") as journal:
            answer_all(ways, requests, LONGEST, cost, journal)
        assert cut.read_bytes() == file.read_bytes()
        assert len(whole) == len(ways) * len(requests) - 5

    def test_an_adaptive_threshold_learns_what_it_had_learnt(self, setting, tmp_path):
        model, requests, cost = setting

        def run(file):
            policy = DecodingPolicy("keep", exit_layer=1, threshold=0.1)
            adaptive = Drift(0.1)
            way = Answering("adaptive", model, EarlyExitDecoding(policy, adaptive))
            with Journal(file, 0) as journal:
                answer_all([way], requests, LONGEST, cost, journal)
            return [line["threshold"] for line in journal.lines]

        whole = run(tmp_path / "whole.jsonl")
        assert len(set(whole)) == len(requests)  # it does change from request to request
        cut = tmp_path / "cut.jsonl"
        cut.write_bytes(b"".join((tmp_path / "whole.jsonl").read_bytes().splitlines(keepends=True)[:2]))
        assert run(cut) == whole

    def test_more_requests_are_answered_as_if_all_had_been_asked_for_at_once(self, setting, tmp_path):
        model, requests, cost = setting

        def run(file, *parts):
            policy = DecodingPolicy("keep", exit_layer=1, threshold=0.1)
            way = Answering("adaptive", model, EarlyExitDecoding(policy, Drift(0.1)))
            with Journal(file, 0) as journal:
                for part in parts:
                    answer_all([way], requests[:part], LONGEST, cost, journal)
            return file.read_bytes()

        assert len(requests) > 1
        at_once = run(tmp_path / "once.jsonl", len(requests))
        assert run(tmp_path / "parts.jsonl", 1, len(requests)) == at_once


class Drift(AdaptiveThreshold):
    """A threshold that depends on the number of texts begun, and on nothing else."""

    def restart(self) -> None:
        super().restart()
        self.begun = 0

    def begin(self) -> float:
        self.begun += 1
        return 0.1 * self.begun


class Counting:
    """A way to answer that counts its calls."""

    def __init__(self, way: Answering, calls: list[str]) -> None:
        self._way, self._calls = way, calls
        self.name, self.decoding, self.prompt = way.name, way.decoding, way.prompt

    def __call__(self, *args):
        self._calls.append(self.name)
        return self._way(*args)


@pytest.mark.parametrize(
    ("own", "full", "found"),
    [
        ([1, 2, 3], [1, 2, 3], (3, 3)),
        ([1, 3], [1, 2, 3], (1, 3)),
        ([1, 2, 3, 4], [1], (1, 4)),
        ([2], [3], (0, 1)),
    ],
)
def test_agreement_by_hand(own, full, found):
    assert agreement(own, full) == agreement(full, own) == found


class TestTiming:
    class Scripted:
        """Answers nothing, and says when it was asked."""

        def __init__(self, name: str, asked: list[str], tokens: int = 4) -> None:
            self.name, self.asked, self.tokens = name, asked, tokens

        def __call__(self, request, max_new_tokens, fixed):
            self.asked.append(self.name)
            return [0] * self.tokens

    def timed(self, file, asked, repeats=2, requests=3, **options):
        everyone = [self.Scripted(name, asked) for name in ("plain", "a", "b")]
        given = {"repeats": repeats, "warmup": 0, "fixed": True} | options
        with Journal(file, 0) as journal:
            time_requests(everyone[0], everyone[1:], [{}] * requests, 4, journal, **given)
        return journal.lines

    def test_all_answer_each_request_in_a_row_and_take_turns_at_the_beginning(self, tmp_path):
        asked = []
        lines = self.timed(tmp_path / "times.jsonl", asked)
        groups = [asked[i : i + 3] for i in range(0, len(asked), 3)]
        assert all(sorted(group) == ["a", "b", "plain"] for group in groups)
        assert [group[0] for group in groups] == ["plain", "a", "b", "a", "b", "plain"]
        assert [(line["repeat"], line["request"]) for line in lines] == [
            (r, n) for r in (0, 1) for n in range(3)
        ]
        assert all(spent > 0 for line in lines for spent in line["nanoseconds"].values())

    def test_warm_up_is_not_timed_and_the_device_is_waited_for_around_each_answer(self, tmp_path):
        asked = []
        lines = self.timed(
            tmp_path / "times.jsonl",
            asked,
            repeats=1,
            requests=2,
            warmup=5,
            synchronize=lambda: asked.append("wait"),
        )
        assert len(lines) == 2
        assert "wait" not in asked[:15]
        assert [name == "wait" for name in asked[15:]] == [True, False, True] * 6

    def test_after_a_crash_only_the_missing_requests_are_timed(self, tmp_path):
        file, asked = tmp_path / "times.jsonl", []
        lines = self.timed(file, asked)
        file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:5]))
        del asked[:]
        again = self.timed(file, asked, warmup=1)
        assert len(asked) == 3 * (1 + 2)
        assert again[:4] == lines[:4]
        del asked[:]
        assert self.timed(file, asked, warmup=1) == again
        assert asked == []  # nothing is missing, so nothing is warmed up

    def test_another_number_of_tokens_is_no_fixed_length(self, tmp_path):
        ways = [self.Scripted("plain", []), self.Scripted("short", [], tokens=3)]
        with Journal(tmp_path / "times.jsonl", 0) as journal:
            with pytest.raises(RuntimeError, match="'short': 3"):
                time_requests(ways[0], ways[1:], [{}], 4, journal, repeats=1, warmup=0, fixed=True)
            assert journal.lines == []
            time_requests(ways[0], ways[1:], [{}], 4, journal, repeats=1, warmup=0, fixed=False)
        assert journal.lines[0]["tokens"] == {"plain": 4, "short": 3}

    def test_figures_by_hand(self):
        spent = {"plain": [[8, 4], [8, 8]], "fast": [[4, 1], [4, 2]]}  # repeats x requests, in seconds
        lines = [
            {"repeat": r, "request": n, "tokens": {"plain": 12, "fast": 6},
             "nanoseconds": {name: int(1e9) * times[r][n] for name, times in spent.items()}}
            for r in (1, 0) for n in (0, 1)
        ]  # fmt: skip
        plain, fast = summarise_times(lines, "plain", resamples=200, seed=0)
        assert (plain["way"], plain["wallclock_speedup"], plain["median_ratio"]) == ("plain", 1, 1)
        assert fast["wallclock_speedup"] == 28 / 11
        assert fast["median_ratio"] == (2 + 4) / 2  # 16 / 8 and 12 / 3, both repeats of a request together
        assert (fast["median_ratio_low"], fast["median_ratio_high"]) == (2, 4)
        assert fast["tokens_per_second"] == pytest.approx(24 / 11)
        assert fast["tokens_per_second_ratio"] == pytest.approx((24 / 11) / (48 / 28))
        assert (fast["examples"], fast["repeats"]) == (2, 2)
        with pytest.raises(UserError, match="3 of 2 x 2 requests"):
            summarise_times(lines[1:], "plain", 0, 0)
        with pytest.raises(UserError, match="no request was timed"):
            summarise_times([], "plain", 0, 0)

    def test_real_ways_write_the_fixed_length_past_the_end_token(self, setting, tmp_path):
        model, requests, _ = setting
        plain, *ways = ways_of(model)
        with Journal(tmp_path / "times.jsonl", 0) as journal:
            time_requests(plain, ways, requests[:1], 9, journal, repeats=1, warmup=0, fixed=True)
        assert set(journal.lines[0]["tokens"].values()) == {9}
        rows = summarise_times(journal.lines, "full", 0, 0)
        assert [row["way"] for row in rows] == ["full", "always", "loop", "never", "static", "verify"]


def test_the_end_token_ends_a_free_text_and_not_a_fixed_one(setting):
    model, requests, _ = setting
    fixed = Answering("plain", model)(requests[0], 9, fixed=True)
    end = model.generation_config.eos_token_id
    model.generation_config.eos_token_id = fixed[2]  # a token that this text has
    try:
        for way in ways_of(model):
            assert len(way(requests[0], 9, fixed=True)) == 9
        free = Answering("plain", model)(requests[0], 9)
        assert free == fixed[: fixed.index(fixed[2]) + 1]
        assert model.generation_config.eos_token_id == fixed[2]
    finally:
        model.generation_config.eos_token_id = end
