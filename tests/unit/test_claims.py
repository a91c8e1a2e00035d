"""`docs/claims.md` says what the kept records say, by the rule that it states, about what the papers print."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from synthetic_records import PROJECT, QUALITY, explained_params, invented_params, write_explained, write_run

from adaptive_pipeline.grid import Cell
from adaptive_pipeline.reporting.claims.judged import Judged, Kept, judge_claims, read_kept_presets
from adaptive_pipeline.reporting.claims.listed import FAST, PAPERS, SLOW
from adaptive_pipeline.reporting.claims.page import claims_page, remark
from adaptive_pipeline.reporting.claims.trials import (
    AgainstFull,
    Exits,
    FalsePositives,
    Gradients,
    Points,
    Speed,
    bounded,
)
from adaptive_pipeline.reporting.claims.verdict import Effect, Finding, Verdict, decide, judge
from adaptive_pipeline.reporting.frame import collect
from adaptive_pipeline.reporting.names import METHODS, RULES
from adaptive_pipeline.reporting.published.papers import load_published
from adaptive_pipeline.reporting.statistics.answers import Answers
from adaptive_pipeline.reporting.statistics.paired import paired_bootstrap, resample_quality
from adaptive_pipeline.runs.records import Conflict, Record
from adaptive_pipeline.runs.store import kept_file, open_runs, write_kept

CLAIMS = {claim.key: claim for paper in PAPERS for claim in paper.claims}
HOLDS, DOES_NOT, NO_DIFFERENCE, UNTOLD = Verdict


def an_effect(low, high, speedups=None, rows=1000, **more):
    return Effect((low + high) / 2, low, high, math.nan, 1, rows, "", speedups=speedups, **more)


# ---- the rule --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "side", "verdict"),
    [
        (0.001, 0.02, "above", HOLDS),
        (0.001, 0.004, "above", HOLDS),
        (-0.02, -0.001, "above", DOES_NOT),
        (-0.005, 0.005, "above", NO_DIFFERENCE),
        (-0.005, 0.006, "above", UNTOLD),
        (-0.02, 0.03, "above", UNTOLD),
        (0.001, 0.02, "below", DOES_NOT),
        (-0.02, -0.001, "below", HOLDS),
        (-0.004, 0.005, "level", HOLDS),
        (0.001, 0.004, "level", HOLDS),
        (0.001, 0.02, "level", UNTOLD),
        (0.006, 0.02, "level", DOES_NOT),
        (-0.02, -0.006, "level", DOES_NOT),
        (math.nan, math.nan, "above", UNTOLD),
    ],
)
def test_an_interval_is_judged_by_the_stated_rule(low, high, side, verdict):
    assert judge(an_effect(low, high), side) == verdict


def test_a_better_method_that_runs_slower_proves_nothing():
    assert judge(an_effect(0.01, 0.02, (1.5, 2.0)), "above") == UNTOLD
    assert judge(an_effect(0.01, 0.02, (2.0, 1.5)), "above") == HOLDS
    assert judge(an_effect(-0.02, -0.01, (2.0, 1.5)), "above") == UNTOLD
    assert judge(an_effect(-0.02, -0.01, (1.5, 2.0)), "above") == DOES_NOT
    assert judge(an_effect(-0.001, 0.001, (1.5, 2.0)), "level") == UNTOLD
    assert judge(an_effect(0.01, 0.02, (1.5, 2.0), speed_matters=False), "above") == HOLDS


def a_test(verdict, rows=500, invented=False):
    return Finding("preset", "task", "encoder", invented, an_effect(0.0, 0.1, rows=rows), verdict)


def test_tasks_of_many_rows_decide_first_and_generated_ones_last():
    tests = [a_test(DOES_NOT), a_test(HOLDS, rows=9815), a_test(NO_DIFFERENCE, 3000, invented=True)]
    assert decide(tests) == (HOLDS, tests[1:2])
    assert decide(tests[::2]) == (DOES_NOT, tests[:1])
    assert decide(tests[2:]) == (NO_DIFFERENCE, tests[2:])
    assert decide([]) == (UNTOLD, [])


def test_generated_texts_never_outvote_real_ones_that_cannot_tell():
    tests = [a_test(UNTOLD), a_test(DOES_NOT, invented=True)]
    assert decide(tests) == (UNTOLD, tests[:1])


def test_tests_that_disagree_leave_a_claim_open():
    tests = [a_test(HOLDS), a_test(DOES_NOT), a_test(UNTOLD)]
    assert decide(tests) == (UNTOLD, tests[:2])


# ---- the tests -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("claims") / "runs"
    write_run(root, invented_params(), answers=True)
    return root


@pytest.fixture(scope="module")
def results(runs):
    return collect(runs, invented_params())


def exit_answers(method, labels):
    """Return the answers of a method's exits: as many right as its quality says, of exits the same first rows."""
    right = np.arange(len(labels)) < np.round(1000 * np.array(QUALITY[method]))[:, None]
    return np.where(right, labels, 1 - labels)


@pytest.fixture(scope="module")
def kept(runs, tmp_path_factory):
    """The same runs as git keeps them, with the answers of all exits."""
    out, labels, items = tmp_path_factory.mktemp("kept"), np.arange(1000) % 2, []
    for (family, cell), item in open_runs(runs).finished.items():
        beside = {name: body for name in item.companions if (body := item.companion(name))}
        if family == "evaluate_batch1":
            exits = (6,) if cell.method == "full" else (2, 4, 6)
            beside["exit_answers"] = {"exits": exits, "classes": exit_answers(cell.method, labels)}
        items.append(replace(item, folder=None, at_hand=beside))
    for seed in (0, 1):
        cell = Cell("tiers", "minilm", seed)
        write_kept(kept_file(out, cell), [item for item in items if item.record.cell.seed == seed])
    return collect(out, invented_params())


def test_exits_are_compared_row_by_row_where_their_answers_are_kept(results, kept):
    expected = np.mean(np.subtract(QUALITY["sweet"], QUALITY["early_exit"]))
    paired, bound = (Exits("sweet", "early_exit").measure(one) for one in (kept, results))
    assert (paired.paired, bound.paired) == (True, False)
    assert paired.mean == pytest.approx(expected, abs=1e-3)
    assert bound.mean == pytest.approx(expected)
    assert bound.low < paired.low < paired.high < bound.high
    assert (paired.of, paired.seeds, bound.seeds) == ("exits 2, 4, 6", 2, 2)
    first = Exits("sweet", "early_exit", first=True).measure(kept)
    assert (first.of, first.mean) == ("exit 2", pytest.approx(0.03))


def test_without_the_answers_only_accuracy_has_a_bound(results):
    other = replace(results, points=results.points.assign(metric="matthews"))
    assert "answers were not kept" in Exits("sweet", "early_exit").measure(other)


@pytest.mark.parametrize("together", [0.0, 0.7])
def test_the_bound_is_at_least_as_wide_as_the_paired_interval(together):
    generator, rows = np.random.default_rng(0), 2000
    hard = generator.random(rows)
    own = generator.random((2, rows))
    share = generator.random((2, rows)) < together  # rows on which a model errs where all models err
    right = np.where(share, hard, own) < np.array([[0.8], [0.75]])
    labels = np.zeros(rows, dtype=int)
    scored = resample_quality("accuracy", np.where(right, 0, 1), labels, 2, 2000)
    paired = paired_bootstrap(scored.of([0]), scored.of([1]))
    first, second = right.mean(1)
    bound = bounded(np.array([[first]]), np.array([[second]]), rows)
    assert bound.mean == pytest.approx(paired.mean)
    ratio = (bound.high - bound.low) / (paired.high - paired.low)
    assert ratio == pytest.approx(1, abs=0.06) if together == 0 else ratio > 1.1


def test_the_seeds_spread_widens_the_bound():
    calm, wild = (
        bounded(np.full((2, 3), 0.8), 0.75 + np.array([[-d], [d]]) * [1, 1, 1], 1000) for d in (0, 0.02)
    )
    assert wild.high - wild.low > 2 * (calm.high - calm.low)
    assert wild.mean == pytest.approx(calm.mean)


def test_points_are_compared_at_one_speed_that_the_claim_is_about(results):
    fast, slow = (
        Points("sweet", "confidence", "early_exit", "confidence", speed).measure(results)
        for speed in (FAST, SLOW)
    )
    assert min(fast.speedups) >= FAST.least > max(slow.speedups)
    for effect in (fast, slow):
        assert max(effect.speedups) <= 1.25 * min(effect.speedups)
    never = Points("sweet", "confidence", "early_exit", "confidence", Speed(50, 40, 60))
    assert "of the speed in question" in never.measure(results)
    assert "no point" in Points("sweet", "patience", "early_exit", "confidence", FAST).measure(results)


def test_two_points_of_nearly_one_speed_go_before_others_nearer_to_the_claim():
    def row(speed):
        return SimpleNamespace(calibration_layers_speedup=speed)

    trial = Points("a", "confidence", "b", "confidence", Speed(2.0, 1, 5))
    near, level = (row(1.8), row(2.2)), (row(3.0), row(3.1))
    assert min([near, level], key=lambda pair: trial._distance(*pair)) == level
    assert not trial._fit(row(1.5), row(2.5))


def test_the_full_model_has_no_speed_to_match(results):
    effect = AgainstFull("sweet", "confidence", SLOW).measure(results)
    assert effect.speedups[1] == 1
    assert effect.speedups[0] > 1.2
    assert not effect.speed_matters


def test_gradients_have_an_interval_over_seeds_alone(runs, tmp_path):
    import shutil

    shutil.copytree(runs, tmp_path / "runs")
    for seed, cosine in ((0, 0.2), (1, 0.3)):
        folder = tmp_path / f"runs/tiers/minilm/seed{seed}/early_exit/train"
        found = [Conflict(layer=k, mean_cosine=cosine + d, pairs={}) for k, d in ((1, -0.1), (2, 0.1))]
        Record.load(folder).model_copy(update={"gradient_conflict": found}).save(folder)
    two = Gradients("early_exit").measure(collect(tmp_path / "runs", invented_params()))
    assert (two.mean, two.seeds, two.of) == (pytest.approx(0.25), 2, "2 layers")
    assert two.high - two.mean == pytest.approx(12.706 * 0.05, rel=1e-3)  # Student's factor of one degree
    one = Gradients("early_exit").measure(collect(tmp_path / "runs", invented_params(seeds=[0])))
    assert math.isnan(one.low)
    assert (
        Gradients("sweet").measure(collect(tmp_path / "runs", invented_params())).startswith("no gradients")
    )


def with_kept_tokens(root, differences, seeds):
    """Write explanations of SWEET, as if it removed tokens, with a difference of each seed; return the results."""
    params = explained_params(seeds=list(seeds))
    for seed, difference in zip(seeds, differences, strict=True):
        ends = {"fpr_difference": difference, "fpr_low": difference - 0.1, "fpr_high": difference + 0.1}
        write_explained(root, params, Cell("tiers", "minilm", seed, "sweet"), **ends)
    return collect(root, params)


def test_kept_tokens_have_the_interval_of_the_rows_and_the_spread_of_the_seeds(runs, tmp_path):
    import shutil

    shutil.copytree(runs, tmp_path / "runs")
    trial = FalsePositives("sweet", "saliency")
    assert trial.measure(collect(tmp_path / "runs", invented_params())).startswith("no kept tokens")
    one = trial.measure(with_kept_tokens(tmp_path / "runs", [-0.2], [0]))
    assert (one.mean, one.low, one.high, one.seeds, one.rows) == (-0.2, *approx(-0.3, -0.1), 1, 40)
    assert judge(one, "below") == Verdict.HOLDS
    two = trial.measure(with_kept_tokens(tmp_path / "runs", [-0.2, -0.3], [0, 1]))
    assert two.mean == pytest.approx(-0.25)
    assert two.high - two.mean == pytest.approx(math.hypot(0.1, 12.706 * 0.05), rel=1e-3)
    assert judge(two, "below") == Verdict.UNTOLD
    other = FalsePositives("sweet", "attention").measure(with_kept_tokens(tmp_path / "runs", [0.2], [0]))
    assert judge(other, "below") == Verdict.DOES_NOT


def approx(*values):
    return [pytest.approx(value) for value in values]


def conflicts(*cosines):
    return [Conflict(layer=k, mean_cosine=cosine, pairs={}) for k, cosine in enumerate(cosines)]


def seeds_with(*conflicts_of_seeds):
    """Return as much of results as `Gradients` reads: what each seed of early exit recorded."""
    cells = [Cell("tiers", "minilm", seed, "early_exit") for seed, _ in enumerate(conflicts_of_seeds)]
    read = lambda cell: SimpleNamespace(gradient_conflict=conflicts_of_seeds[cell.seed])  # noqa: E731
    return SimpleNamespace(cells=cells, training=read)


@pytest.mark.filterwarnings("error")
def test_gradients_count_only_the_seeds_and_layers_that_have_a_cosine():
    effect = Gradients("early_exit").measure(seeds_with([], conflicts(None, None), conflicts(0.2, None, 0.4)))
    assert (effect.mean, effect.seeds, effect.of) == (pytest.approx(0.3), 1, "2 layers")
    none = Gradients("early_exit").measure(seeds_with(conflicts(None), conflicts(None)))
    assert none == "no recorded gradients have a cosine"


def test_a_point_and_the_full_model_without_a_shared_seed_give_a_reason(results, monkeypatch):
    monkeypatch.setattr(Answers, "shared_seeds", lambda *_: [])
    effect = AgainstFull("sweet", "confidence", SLOW).measure(results)
    assert effect == "no point of the speed in question shares a seed with the full model"


def test_a_run_without_the_methods_is_not_asked_and_one_without_figures_is_named(results):
    whole = Kept({"mine": results.each}, [], {}, [])
    lae, conflict = judge_claims(whole, [CLAIMS["L2"], CLAIMS["S8"]])
    assert (lae.tests, lae.untested) == ([], [])
    assert conflict.untested == [("mine, tiers", "no gradients were recorded")]
    page = claims_page(whole)
    assert "S8 on mine, tiers" in page
    assert "generated texts alone" in page


# ---- the page --------------------------------------------------------------------------------------------------------


def a_finding(low, high, rows=500, seeds=3, side="above", invented=False):
    effect = replace(an_effect(low, high, rows=rows), seeds=seeds)
    return Finding("preset", "task", "encoder", invented, effect, judge(effect, side))


def test_a_verdict_tells_that_it_rests_on_one_seed_and_that_most_other_tests_point_the_other_way():
    def of(*tests, key="S1"):
        return remark(Judged(CLAIMS[key], list(tests), []))

    big, above, below = a_finding(0.01, 0.02, 9815, seeds=1), a_finding(-0.01, 0.03), a_finding(-0.03, 0.01)
    assert of(big) == " (one seed)"
    assert of(replace(big, effect=replace(big.effect, seeds=3)), above) == ""
    assert of(big, below, below, above) == " (one seed; 2 of 3 other tests point the other way)"
    assert of(big, below, above) == " (one seed)"
    assert of(a_finding(0.01, 0.02, seeds=1), a_finding(0.01, 0.02, seeds=3)) == ""
    assert of(a_finding(-0.01, 0.02, 9815, seeds=1), below) == " (one seed)"  # points nowhere itself
    both = a_finding(0.01, 0.02, seeds=1), a_finding(-0.02, -0.01, seeds=1)
    assert of(*both) == " (tests disagree; one seed)"
    tie = a_finding(0.001, 0.004, 9815, side="level")
    assert of(tie, below, key="S6") == ""  # a tie that holds points nowhere


def test_the_head_counts_the_verdicts_that_rest_on_one_seed(runs, tmp_path):
    one = collect(runs, invented_params(seeds=[0]))
    page = claims_page(Kept({"mine": one.each}, [], {}, []))
    rows = [line for line in page.splitlines() if re.match(r"\| [A-Z]\d+ \| .* \| \d+ \| \*\*", line)]
    count = sum("one seed" in line for line in rows)
    assert count == sum("not tested" not in line for line in rows) > 1
    assert f"{count} of these verdicts rest on one seed" in page


def test_what_a_paper_is_said_to_print_is_what_it_prints():
    """Ranges "A to B points" of LeeBERT's table 1, from its cells."""
    cells = {
        (cell.key, cell.task): cell.value
        for cell in load_published()
        if (cell.paper, cell.table, cell.split) == ("LeeBERT", "1", "dev")
    }
    tasks = {task for _, task in cells}
    other = {"leebert_last": "fastbert_clo_v2"}  # what the paper compares with
    checked = 0
    for claim in CLAIMS.values():
        told = re.search(r"is ([\d.]+) to ([\d.]+) points above", claim.says)
        if told and claim.key != "P2":
            first, second = (other.get(name, name) for name in claim.trial.methods)
            gaps = [round(100 * (cells[first, task] - cells[second, task]), 1) for task in tasks]
            assert (float(told[1]), float(told[2])) == (min(gaps), max(gaps)), claim.key
            checked += 1
    assert checked == 8


def test_claims_name_methods_and_rules_that_there_are():
    assert len({claim.key for claim in CLAIMS.values()}) == sum(len(paper.claims) for paper in PAPERS)
    for claim in CLAIMS.values():
        assert set(claim.trial.methods) <= set(METHODS)
        rules = {getattr(claim.trial, name, "fixed") for name in ("rule", "other_rule")}
        assert rules <= set(RULES)


def test_the_page_is_what_the_kept_records_say(monkeypatch):
    monkeypatch.chdir(PROJECT)
    page = (PROJECT / "docs/claims.md").read_text(encoding="utf-8")
    assert page == claims_page(read_kept_presets()), "run `python -m adaptive_pipeline.reporting.claims`"
    rows = re.findall(r"^\| ([A-Z]\d+) \| .* \| \*\*(.*?)\*\*.* \|$", page, re.M)
    assert [key for key, _ in rows] == list(CLAIMS)
    assert {word for _, word in rows} <= set(Verdict)
    for folder in (PROJECT / "docs/results").glob("*/"):
        assert f"| {folder.name} |" in page or f"`{folder.name}`" in page, folder.name
