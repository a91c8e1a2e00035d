"""``docs/claims.md``: every claim with its tests and verdict."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from adaptive_pipeline.reporting.claims.judged import REPEATED, Judged, Kept, judge_claims
from adaptive_pipeline.reporting.claims.listed import PAPERS, Paper
from adaptive_pipeline.reporting.claims.trials import RESAMPLES, Gradients
from adaptive_pipeline.reporting.claims.verdict import BAND, FAR, MANY_ROWS, SLACK, Finding, Verdict
from adaptive_pipeline.reporting.text.markdown import counted, number, table

# ruff: noqa: RUF001 - signs that readers see
SUMMARY = ("", "Claim", "Deciding tests: difference in points [95 %]", "Tests", "Verdict")
LINES = (
    "", "Preset", "Task", "Encoder", "Rows", "Seeds", "Compared", "× fewer layers", "Difference [95 %]", "± seeds",
    "Verdict",
)  # fmt: skip
SHOWN = 3  #: deciding tests in the summary


def claims_page(kept: Kept) -> str:
    """Return the page."""
    judged = judge_claims(kept)
    by_key = {item.claim.key: item for item in judged}
    lines = [*_head(judged), *_rules(), "## Verdicts", ""]
    lines += [*table("lllrl", SUMMARY, (_summary(item) for item in judged)), ""]
    for paper in PAPERS:
        lines += _paper(paper, [by_key[claim.key] for claim in paper.claims])
    return "\n".join([*lines, *_missing(kept, judged)]) + "\n"


def _head(judged: Sequence[Judged]) -> Iterator[str]:
    tests = [test for item in judged for test in item.tests]
    words = Counter(item.verdict for item in judged)
    found = ", ".join(f"{words[verdict]} *{verdict}*" for verdict in Verdict if words[verdict])
    clear = sum(test.verdict in (Verdict.HOLDS, Verdict.DOES_NOT) for test in tests)
    bounds = sum(not test.effect.paired for test in tests)
    alone = sum(map(_rests_on_one_seed, judged))
    yield from [
        "# What the papers claim, and what was seen here",
        "",
        "Early exits let a language model answer easy texts after its first layers. The papers about them claim that one "
        f"way to train such exits, or one rule when to leave, is better than another; {len(judged)} of these claims are "
        "listed here. Each was tested on every kept result (`docs/results/`) that holds both methods: the difference "
        "between the two, in points (hundredths of accuracy), on the same texts, with the interval in which it lies with a "
        "certainty of 95 %. A claim *holds* if the whole interval lies on the paper's side of 0, it *does not* if the whole "
        f"interval lies on the other side, *no difference* is *seen* if the interval stays within {BAND * 100:g} points of "
        "0, and else it *cannot be told*. It cannot be told where texts or seeds are too few for so small a difference, "
        "where tests disagree, and where the better method also ran slower.",
        "",
        f"**Of {len(judged)} claims: {found}.** {alone} of these verdicts rest{'s' if alone == 1 else ''} on one seed: "
        "another training may turn them. All of it is about our encoders, amounts of data and trainings, which are not "
        f"the papers'. {len(tests)} lines below are tests, and {clear} of them show a difference; by luck alone about "
        f"one in twenty, {round(len(tests) / 20)}, would. For {bounds} the answers of single exits were not kept: a "
        "cautious bound, marked ≤, stands in place of the interval.",
        "",
        "This page is made from the kept records: `python -m adaptive_pipeline.reporting.claims`.",
        "",
    ]


def _rules() -> list[str]:
    return [
        "## How a verdict is made",
        "",
        f"- **Interval.** Texts and seeds are drawn again {RESAMPLES:,} times, both methods always on the same ones "
        "([protocol](protocol.md#statistics)). With one seed it speaks of these trained models only. A bound (≤) "
        "takes the two methods' errors as if they had nothing to do with each other, and adds the seeds' spread: "
        "it is wider.",
        "- **Exits.** Every text is made to leave at one exit; the mean is over the exits that both methods have.",
        "- **Rules at a speed.** Each method enters with a threshold that its calibration texts chose. Compared are "
        f"two that saved about equally many layers on calibration texts (within {SLACK:.0%}, else the closest up to a "
        f"factor of {FAR:g}), and of these those nearest to the paper's speed.",
        "- **Kept tokens.** On texts of which people marked the words that carry the label: the share of the other words' "
        "tokens that a method keeps, less the share that another score would keep with as many tokens; texts are drawn "
        "again, and the seeds' spread is added.",
        f"- **Speed.** Where the better of two runs more than {SLACK:.0%} slower on the evaluation texts, speed may "
        "explain the difference: it cannot be told.",
        f"- **Claims of a tie.** The claim *holds* where the interval lies within {BAND * 100:g} points of 0 and *does "
        "not* where it lies wholly outside.",
        f"- **All tests of a claim.** Real tasks of at least {MANY_ROWS:,} evaluation texts are asked first, then other "
        "real tasks, then generated ones. The first kind of which there is a test decides. Where its tests that can tell "
        "disagree, the claim cannot be told in general: the lines say where it holds.",
        "",
    ]


def _summary(item: Judged) -> list[str]:
    deciding = item.deciding
    shown = [f"{_place(test)}: {_difference(item, test)}" for test in deciding[:SHOWN]]
    if len(deciding) > SHOWN:
        shown.append(f"and {len(deciding) - SHOWN} more")
    text = "; ".join(shown) or "not tested"
    return [item.claim.key, item.claim.title, text, str(len(item.tests)), f"**{item.verdict}**{remark(item)}"]


def remark(item: Judged) -> str:
    """Return what one has to know beside a verdict, in brackets."""
    words = [_why(item), "one seed" if _rests_on_one_seed(item) else "", _other_way(item)]
    found = "; ".join(filter(None, words))
    return f" ({found})" if found else ""


def _rests_on_one_seed(item: Judged) -> bool:
    """Return whether no deciding test had a second seed."""
    return bool(item.deciding) and all(test.effect.seeds == 1 for test in item.deciding)


def _other_way(item: Judged) -> str:
    """Return how many other tests lean against the deciding ones, where these show a difference and those are most."""
    deciding = item.deciding
    others = [test for test in item.tests if test not in deciding]
    told = item.verdict in (Verdict.HOLDS, Verdict.DOES_NOT)
    if not told or (item.claim.side == "level" and item.verdict == Verdict.HOLDS):
        return ""
    against = sum(test.effect.mean * deciding[0].effect.mean < 0 for test in others)
    return f"{against} of {len(others)} other tests point the other way" if 2 * against > len(others) else ""


def _why(item: Judged) -> str:
    """Return why a verdict is as it is, where the difference alone does not show it."""
    deciding = item.deciding
    if len({test.verdict for test in deciding}) > 1:
        return "tests disagree"
    if deciding and deciding[0].invented:
        return "generated texts alone"
    apart = bool(deciding) and all(test.effect.low > 0 or test.effect.high < 0 for test in deciding)
    slower = apart and item.claim.side != "level" and item.verdict == Verdict.UNTOLD
    return "the better one ran slower" if slower else ""


def _place(test: Finding) -> str:
    rows = f"{test.effect.rows:,} rows, " if test.effect.rows else ""
    return f"{test.task} on {test.backbone} ({rows}{counted(test.effect.seeds, 'seed')})"


def _paper(paper: Paper, items: Sequence[Judged]) -> Iterator[str]:
    yield from [f"## {paper.name}", "", f"{paper.citation}. [The method here]({paper.page}).", ""]
    for item in items:
        claim = item.claim
        note = f" {claim.note}" if claim.note else ""
        yield f"- **{claim.key} {claim.title}** {claim.says} ({claim.source}.){note}"
    rows = [_line(item, test) for item in items for test in item.tests]
    yield from ["", *table("llllrrlrrrl", LINES, rows), ""]


def _line(item: Judged, test: Finding) -> list[str]:
    effect = test.effect
    speeds = " / ".join(number(value, ".2f") for value in effect.speedups or ())
    spread = number(effect.std * _factor(item), ".2f")
    rows = f"{effect.rows:,}" if effect.rows else ""
    where = [item.claim.key, test.preset, test.task, test.backbone, rows, str(effect.seeds)]
    return [*where, effect.of, speeds, _difference(item, test), spread, test.verdict]


def _difference(item: Judged, test: Finding) -> str:
    effect, factor = test.effect, _factor(item)
    text = number(effect.mean * factor, "+.2f") + (" (cosine)" if factor == 1 else "")
    if math.isnan(effect.low):
        return text
    ends = ", ".join(number(value * factor, "+.2f") for value in (effect.low, effect.high))
    return f"{text} {'' if effect.paired else '≤ '}[{ends}]"


def _factor(item: Judged) -> int:
    """Return what makes points of a claim's figures; a cosine stays as it is."""
    return 1 if isinstance(item.claim.trial, Gradients) else 100


def _missing(kept: Kept, judged: Sequence[Judged]) -> Iterator[str]:
    yield from ["## What is missing", ""]
    if kept.without:
        yield f"- No records of classifiers are kept of the presets {', '.join(f'`{name}`' for name in kept.without)}."
    for name, other in REPEATED.items():
        yield f"- `{name}` trains some of what `{other}` trains, and is left out."
    if kept.unlearned:
        yield f"- The full model is not shown to have learned the task on {'; '.join(kept.unlearned)}: not tested there."
    for name, cells in kept.missing.items():
        listed = ", ".join(f"{item.cell.task} {item.cell.method} seed {item.cell.seed}" for item in cells)
        yield f"- `{name}` is not finished: {counted(len(cells), 'cell')} ({listed})."
    reasons: dict[str, list[str]] = {}
    for item in judged:
        for where, why in item.untested:
            reasons.setdefault(why, []).append(f"{item.claim.key} on {where}")
    for why, places in reasons.items():
        yield f"- Not tested, since {why}: {'; '.join(places)}."
    yield from [
        "",
        "Claims of FREE and CALM, and those of AdapLeR about speed, are not tested yet.",
        "",
    ]
