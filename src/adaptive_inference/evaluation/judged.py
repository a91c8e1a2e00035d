"""What a judge's verdicts say: mean marks, and wins, ties and losses, each with its interval over rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from adaptive_inference.evaluation.statistics import bootstrap
from adaptive_inference.generation.judge_questions import Output, Pairwise

RESAMPLES = 2000


def likert_summary(
    verdicts: Sequence[Mapping[str, int] | None], criteria: Sequence[str], seed: int = 0
) -> dict[str, Any]:
    """Return the mean mark by each criterion, and over all of them.

    Parameters
    ----------
    verdicts
        Marks by criterion of each row; None: it has none, and counts nowhere but in ``without``.
    criteria
        Names.
    seed
        Of the resamples.

    Returns
    -------
    dict
        ``rows`` and ``without`` a verdict; ``marks``: criterion (and ``mean``) -> ``mean``, ``low``, ``high`` of the 95 %
        percentile interval. No rows: nulls.
    """
    given = [verdict for verdict in verdicts if verdict is not None]
    marks_NC = np.array([[verdict[name] for name in criteria] for verdict in given], float)
    marks_NC = marks_NC.reshape(len(given), len(criteria))
    columns = {name: marks_NC[:, place] for place, name in enumerate(criteria)}
    columns["mean"] = marks_NC.mean(axis=1)
    return {
        "rows": len(given),
        "without": len(verdicts) - len(given),
        "marks": {name: _mean(values_N, seed) for name, values_N in columns.items()},
    }


def pairwise_summary(
    outputs: Sequence[Output], questions: Sequence[Pairwise], verdicts: Sequence[str | None], seed: int = 0
) -> dict[str, Any]:
    """Return how often ours is better: where the judge says so in both orders.

    Parameters
    ----------
    outputs
        All of ours; those that no question is about are equal to the other text.
    questions, verdicts
        Of `both_orders`, and what was answered: ``ours``, ``other``, or None.
    seed
        Of the resamples.

    Returns
    -------
    dict
        ``rows`` with a verdict, ``without``; ``wins``, ``ties``, ``losses`` of ours; ``equal`` and ``disagree``, which
        are the ties; ``first``: how often the judge took what it was shown first, 0.5 without a bias to a place;
        ``score``: wins and half the ties over rows, with its interval.
    """
    said: dict[int, list[str | None]] = {}
    for question, verdict in zip(questions, verdicts, strict=True):
        said.setdefault(question.row, []).append(verdict)
    points: list[float] = []
    equal = without = 0
    for output in outputs:
        pair = said.get(output.row)
        if pair is None:
            equal += 1
            points.append(0.5)
        elif None in pair:
            without += 1
        else:
            points.append(pair.count("ours") / len(pair))
    points_N = np.array(points)
    first = [
        (said == "ours") == asked.ours_first for asked, said in zip(questions, verdicts, strict=True) if said
    ]
    ties = int((points_N == 0.5).sum())
    return {
        "rows": len(points),
        "without": without,
        "wins": int((points_N == 1.0).sum()),
        "ties": ties,
        "losses": int((points_N == 0.0).sum()),
        "equal": equal,
        "disagree": ties - equal,
        "first": sum(first) / len(first) if first else None,
        "score": _mean(points_N, seed),
    }


def likert_table(found: Mapping[str, Any]) -> str:
    """Return marks as a table for a person."""
    lines = [f"{'criterion':20}{'mean mark':>10}{'95 % interval':>18}"]
    lines += [f"{name:20}{_cells(of)}" for name, of in found["marks"].items()]
    return "\n".join([*lines, _rows(found)])


def pairwise_table(found: Mapping[str, Any]) -> str:
    """Return wins, ties and losses as a table for a person."""
    lines = [
        f"{'wins':>6}{'ties':>6}{'losses':>8}{'score':>10}{'95 % interval':>18}",
        f"{found['wins']:6}{found['ties']:6}{found['losses']:8}{_cells(found['score'])}",
        f"of the ties, equal texts (not asked): {found['equal']}; the two orders disagree: {found['disagree']}",
    ]
    if found["first"] is not None:
        lines.append(f"the judge took what it was shown first in {found['first']:.0%} of its answers")
    return "\n".join([*lines, _rows(found)])


def _mean(values_N: np.ndarray, seed: int) -> dict[str, float | None]:
    if not len(values_N):
        return {"mean": None, "low": None, "high": None}
    low, high = bootstrap(lambda rows_RN: values_N[rows_RN].mean(axis=1), len(values_N), RESAMPLES, seed)
    return {"mean": float(values_N.mean()), "low": low, "high": high}


def _cells(of: Mapping[str, float | None]) -> str:
    if of["mean"] is None:
        return f"{'-':>10}{'-':>18}"
    interval = f"{of['low']:.3f} to {of['high']:.3f}"
    return f"{of['mean']:10.3f}{interval:>18}"


def _rows(found: Mapping[str, Any]) -> str:
    left = f"; without a verdict, and in no figure: {found['without']}" if found["without"] else ""
    return f"rows: {found['rows']}{left}"
