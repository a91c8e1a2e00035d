"""What a reader has to know below the main table."""

# ruff: noqa: RUF001 - signs that readers see

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from adaptive_inference.settings.inputs import REGRESSION_METRICS
from adaptive_pipeline.reporting.frame import PAIR, Results
from adaptive_pipeline.reporting.measures import KEY
from adaptive_pipeline.reporting.names import method_name
from adaptive_pipeline.reporting.statistics.comparisons import LEVEL, STANDING_REFERENCES, TESTABLE_SEEDS
from adaptive_pipeline.reporting.text.markdown import counted, number
from adaptive_pipeline.reporting.text.sentences import currency_note

BETTER, WORSE, DIFFERS = "†", "‡", "§"


def main_notes(results: Results, comparisons: pd.DataFrame) -> Iterator[str]:
    """Yield the notes of ``main.md``."""
    rows = results.main
    yield (
        f"{_quality_note(set(rows.metric))} Loss: the full model's minus the method's on the same seeds, in points "
        "(hundredths); negative: better than the full model. Speed-ups (×) are cost of the full fine-tuned model / cost of "
        "the method; layers, FLOPs and batch-1 wall-clock are never mixed. Means over seeds, std with n − 1. Rules and "
        "thresholds were chosen on the calibration split, so a goal may be missed here. Rules named together let the same "
        "rows leave at the same exits; times are the first one's."
    )
    yield (
        "95 % interval of the loss: paired bootstrap over the evaluation rows, and over seeds where there are several; with "
        "one seed it speaks of these trained models only. 95 % interval of a wall-clock speed-up: bootstrap over the timed "
        "texts, with several seeds the lowest and highest end of theirs."
    )
    yield from currency_note(results.cost)
    if not comparisons.empty:
        yield sign_note(comparisons)
    leaked = {cell.task for cell in results.cells if results.calibration(cell).calibrated_on == "evaluation"}
    if leaked:
        yield (
            f"**Calibrated on the evaluation split ({', '.join(sorted(leaked))}): these numbers are optimistic** and only "
            "reproduce a published protocol."
        )
    if not rows.attainable.all():
        yield "The oracle looks at the labels: a bound, not a method."
    risk = results.params.goal.risk
    if risk and any(goal.kind == "risk" for goal in rows.goal):
        yield (
            f"risk ≤ {risk.delta:g}: the fastest threshold certified on the calibration split, with probability "
            f"{1 - risk.epsilon:g} for each method, rule and seed by itself ({risk.loss} loss against the full model)."
        )
    yield from _clock_notes(results)
    if results.missing:
        cells = ", ".join(f"{item.cell.name} ({item.why})" for item in results.missing[:12])
        more = f", and {len(results.missing) - 12} more" if len(results.missing) > 12 else ""
        yield f"**Missing cells ({len(results.missing)}, see missing.csv):** {cells}{more}."


def _quality_note(metrics: set[str]) -> str:
    """Say what quality is measured in; tasks of several metrics are never averaged."""
    if not metrics & set(REGRESSION_METRICS):
        return "Quality is a fraction of the evaluation split."
    return (
        "Quality is the metric that a table is headed with, on the evaluation split; a correlation lies between −1 and 1, "
        "counts as 0 where all answers are equal, and a point of it is 0.01."
        + (" Metrics of several kinds stand here: compare within a table only." if len(metrics) > 1 else "")
    )


def _clock_notes(results: Results) -> Iterator[str]:
    seeds = sorted({*results.points.seed[results.points.timed]})
    if not seeds:
        yield "Wall-clock was not measured."
        return
    named = ", ".join(str(seed) for seed in seeds)
    yield (
        f"Wall-clock of seed{'' if len(seeds) == 1 else 's'} {named}, measured on: {'; '.join(results.machines)}. ms: "
        "median of a text at batch 1, and the full model's in the same process; their ratio is not the speed-up, which is "
        "of sums."
    )
    if {*seeds} != {*results.points.seed}:
        yield (
            "Quality and layers of these seeds alone, to set beside wall-clock, are `timed_quality` and "
            "`timed_layers_speedup` in main.csv."
        )


def first_exit_sentence(row: Any) -> str:
    """Say whether SWEET's first exit beats early exit's; a row of `first_exit_difference`."""
    mean = row.difference_mean
    verdict = "beats" if mean > 0 else "equals" if mean == 0 else "does not beat"
    spread = "" if pd.isna(row.difference_std) else f" (std {row.difference_std:.4f})"
    return (
        f"SWEET's first exit (layer {row.exit_layer}) {verdict} early exit's: difference "
        f"{number(mean, '+.4f')}{spread}, paired by seed, better in {row.won} of {row.seeds}."
    )


# ---- signs of significant differences --------------------------------------------------------------------------------


def signs(comparisons: pd.DataFrame) -> dict[tuple[str, ...], dict[str, str]]:
    """Return, per row of the main table and standing reference, the sign of a significant difference.

    A model without exits has one row for all goals: the full model is the same at each of them, but early exit is not, so
    only its difference from the full model has a sign; and of the ``static_K`` only those that were compared (`at_goal`).
    """
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for item in comparisons[comparisons.significant == True].itertuples():  # noqa: E712 - a column
        standing = item.reference in STANDING_REFERENCES and item.operating_point == item.goal.name
        if item.reference == "full" or standing:
            sign = BETTER if item.difference_mean > 0 else WORSE
            row = found.setdefault(tuple(getattr(item, name) for name in KEY), {})
            row[item.reference] = DIFFERS if item.reference == "full" else sign
    return found


def sign_note(comparisons: pd.DataFrame) -> str:
    """Return the note that explains the signs and says n."""
    tested = comparisons[comparisons.not_tested == ""]
    if tested.empty:
        return (
            f"Differences are not tested with fewer than {TESTABLE_SEEDS} seeds; comparisons.md has them with their "
            "intervals."
        )
    columns = tested[[*PAIR, "rows", "seeds", "comparisons"]].drop_duplicates()
    n = [
        f"{item.task}, {item.backbone}: n = {item.rows} rows, {counted(item.seeds, 'seed')}, "
        f"{item.comparisons} comparisons"
        for item in columns.itertuples()
    ]
    return (
        f"{BETTER} better, {WORSE} worse than {method_name(STANDING_REFERENCES[0])} at the same goal; {DIFFERS} differs "
        f"from the full model: paired bootstrap and t-test over seeds, p < {LEVEL} after Holm's correction "
        f"({'; '.join(n)}). "
        "Per method and goal only the rule that was best on calibration is compared, of the first K layers only the best K; "
        "a model without exits has one row for all goals, marked against the full model alone: no sign elsewhere says "
        "nothing. "
        "See comparisons.md."
    )
