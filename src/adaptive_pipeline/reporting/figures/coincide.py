"""Which exit rules are one and the same: seen in the data, so that their curve is drawn once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from adaptive_pipeline.reporting.frame import Results
from adaptive_pipeline.reporting.names import rule_key, rule_name

#: Decimals to which costs and qualities are compared, and points that two curves must share to be called one.
DECIMALS, SHARED = 7, 5

Curve = Mapping[str, Sequence[float | None]]


def coincide(one: Curve, other: Curve) -> bool:
    """Whether two rules of a model let the same rows leave at the same exits.

    Their thresholds differ, so most points of their curves do. Where the rules are one, those that run the same number of
    layers spend the same FLOPs, of texts of different lengths, and give the same quality: true if all such points do, and
    there are at least `SHARED` of them.
    """
    points, others = _by_layers(one), _by_layers(other)
    shared = points.keys() & others.keys()
    return len(shared) >= SHARED and all(points[cost] == others[cost] for cost in shared)


def _by_layers(curve: Curve) -> dict[float, tuple[float, float]]:
    """Return layers -> FLOPs and quality, costs as shares of the full model's."""
    columns = (curve[name] for name in ("layers_speedup", "flops_speedup", "quality"))
    return {
        round(1 / layers, DECIMALS): (round(1 / flops, DECIMALS), round(quality, DECIMALS))
        for layers, flops, quality in zip(*columns, strict=True)
        if layers and flops and quality is not None
    }


def same_rules(results: Results) -> dict[str, tuple[str, ...]]:
    """Return each rule of one task and backbone -> the rules that coincide with it, itself first of none, in table order.

    Two coincide if they do in every seed of every method that runs both.
    """
    apart: set[tuple[str, str]] = set()
    together: set[tuple[str, str]] = set()
    rules: set[str] = set()
    for cell in results.cells:
        curves = results.curves(cell)
        rules |= set(curves)
        for pair in combinations(sorted(curves, key=rule_key), 2):
            (together if coincide(*(curves[rule] for rule in pair)) else apart).add(pair)
    return _groups(sorted(rules, key=rule_key), together - apart)


def _groups(rules: Iterable[str], pairs: set[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """Return rule -> its group: a rule joins the first group with whose every rule it makes a pair."""
    groups: list[list[str]] = []
    for rule in rules:
        fitting = (group for group in groups if all((other, rule) in pairs for other in group))
        found = next(fitting, None)
        if found is None:
            groups.append([rule])
        else:
            found.append(rule)
    return {rule: tuple(group) for group in groups for rule in group}


def joined_name(rules: Iterable[str]) -> str:
    """Return how rules that coincide are shown: ``confidence = entropy``."""
    return " = ".join(map(rule_name, rules))
