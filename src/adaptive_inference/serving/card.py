"""The model card, the README.md of an exported model: what it does, how well, and how to use it. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from adaptive_inference.by_name import module_names
from adaptive_inference.calibration.operating_point import COST_WORDS, OperatingPoint
from adaptive_inference.exits.deployment import deployment_of
from adaptive_inference.exits.layout import MULTI_MODEL, open_model
from adaptive_inference.serving.metadata import (
    NO_DATASET,
    NO_ENCODER,
    Dataset,
    Encoder,
    Measured,
    front_matter,
)
from adaptive_inference.serving.setting import recommended
from adaptive_inference.tasks.schema import Schema

CARD_FILE = "README.md"
#: Metric key -> name for readers; any other is shown under its key.
_METRICS = {
    "f1": "F1",
    "matthews": "Matthews correlation",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "pearson_spearman": "Pearson-Spearman mean",
}
#: ``{cost}`` is the currency of the goals, which a model has one of.
_COLUMNS = (
    "rule",
    "operating point",
    "threshold",
    "quality, calibration split",
    "{cost} speed-up, calibration split",
    "quality, evaluation split",
    "layers speed-up, evaluation split",
    "FLOPs speed-up, evaluation split",
)


def metric_name(metric: str) -> str:
    """Return how a metric is shown."""
    return _METRICS.get(metric, metric)


@dataclass(frozen=True)
class CardPoint:
    """An operating point, and what the evaluation split gave at it; None: not measured."""

    point: OperatingPoint
    quality: float | None = None
    layers_speedup: float | None = None
    flops_speedup: float | None = None


@dataclass(frozen=True)
class CardData:
    """All that a card says.

    Attributes
    ----------
    schema
        What goes in and what comes out.
    encoder
        What the layers are.
    exits
        Exit layers, or the layers of a cascade's members.
    cascade
        Whether it is one.
    calibrated
        False: no threshold was chosen.
    default
        The operating point that the model answers with unless told otherwise; None: all of it runs.
    points
        Those that a user may choose among.
    title
        What kind of model it is; empty: told by the exits.
    remarks
        Sentences on quality and speed.
    own_code
        What answers with the model and is not of this library: code of somebody's own.
    origin
        What the encoder was before it was fine-tuned.
    dataset
        Where the task's rows come from.
    deployment
        What it is exported as, one of `exits.deployment.DEPLOYMENTS`.
    """

    schema: Schema
    encoder: str
    exits: tuple[int, ...]
    cascade: bool
    calibrated: bool
    default: OperatingPoint | None
    points: tuple[CardPoint, ...]
    title: str = ""
    remarks: tuple[str, ...] = ()
    own_code: tuple[str, ...] = ()
    origin: Encoder = NO_ENCODER
    dataset: Dataset = NO_DATASET
    deployment: str = "torch"


def card_of(folder: Path, points: Iterable[CardPoint]) -> CardData:
    """Return what a saved model's folder can tell, with the operating points that a user may choose among."""
    saved = open_model(folder)
    cascade = saved.config["kind"] == MULTI_MODEL
    exits = tuple(saved.config["exits"])
    last = open_model(saved.home / str(exits[-1])) if cascade else saved
    points, family = tuple(points), last.config["backbone"]["model_type"]
    rules = {item.point.setting.rule.partition("(")[0] for item in points}
    own_code = [f"exit rule `{name}`" for name in sorted(rules) if name not in module_names("exit_rules")]
    if family.replace("-", "_") not in module_names("backbones"):
        own_code.append(f"encoder `{family}`")
    return CardData(
        Schema.load(saved.home),
        family,
        exits,
        cascade,
        saved.calibration is not None,
        recommended(saved.calibration),
        points,
        own_code=tuple(own_code),
        deployment=deployment_of(saved.home),
    )


def render(data: CardData) -> str:
    """Return the card's text."""
    schema = data.schema
    parts = [
        f"---\n{front_matter(schema, data.origin, data.dataset, _results(data))}\n---",
        f"# {schema.task}: {data.title or _kind(data)}",
        _task(schema),
        _layers(data),
        "## How to use",
        _usage(data),
        *_needed(data.own_code),
        "## Thresholds",
        _default(data),
        *_points(data.points),
        *(["## Quality and speed", *data.remarks] if data.remarks else []),
        "## Limits",
        f"Made for task `{schema.task}` alone, and for inputs of up to {schema.max_length} tokens (longer ones are cut). "
        "Thresholds were chosen on held-out calibration rows of the same task: on other text both quality and speed-up "
        "may differ.",
        "## Licence",
        f"{data.origin.words} What the training rows allow is not known here. adaptive-inference, which runs the model, is "
        "under Apache-2.0.",
    ]
    return "\n\n".join(parts) + "\n"


def _results(data: CardData) -> list[Measured]:
    """Return what the evaluation split gave at the default operating point."""
    found = next((item for item in data.points if item.point == data.default), None)
    if found is None:
        return []
    metric = data.schema.metric
    figures = [
        (metric, found.quality, metric_name(metric)),
        ("layers_speedup", found.layers_speedup, "speed-up in layers"),
        ("flops_speedup", found.flops_speedup, "speed-up in FLOPs"),
    ]
    return [Measured(name, value, words) for name, value, words in figures if value is not None]


def _kind(data: CardData) -> str:
    if data.cascade:
        return f"a cascade of {len(data.exits)} models"
    return "an early-exit model" if len(data.exits) > 1 else f"a model of {data.exits[0]} layers"


def _task(schema: Schema) -> str:
    reads = " and ".join(f"`{name}`" for name in schema.text)
    answer = (
        "a score (a number, not clipped to any range)"
        if schema.labels is None
        else "one of " + ", ".join(f"`{name}`" for name in schema.labels)
    )
    return f"Task: reads {reads}, answers {answer}; scored by {metric_name(schema.metric)}."


def _layers(data: CardData) -> str:
    layers = ", ".join(str(layer) for layer in data.exits)
    run_by = "" if data.deployment == "torch" else f" Exported as `{data.deployment}`, for ONNX Runtime."
    if data.cascade:
        return f"Members of {layers} layers ({data.encoder}), tried in this order, each from the tokens on."
    if len(data.exits) == 1:
        return f"The first {layers} layers of an encoder ({data.encoder}), with one classifier.{run_by}"
    return f"An encoder ({data.encoder}) with exits after layers {layers}.{run_by}"


def _usage(data: CardData) -> str:
    """Return how to install the library alone, and a snippet of Python and a command line that predict with this folder."""
    schema, extra = data.schema, "torch" if data.deployment == "torch" else "onnx"
    pair = len(schema.text) > 1
    answers = "answer.labels" if schema.labels is None else "answer.labels, answer.probabilities"
    texts = '[("a text", "another")]' if pair else '["a text", "another"]'
    line = f'{{"{schema.text[0]}": "a text", "{schema.text[1]}": "another"}}' if pair else "a text"
    return (
        "The library alone is enough; in a clone of adaptive-inference:\n\n"
        f"```sh\npip install '.[{extra}]'\n```\n\n"
        "Then, in this folder (from elsewhere name its path, or its id on a hub):\n\n"
        f"```python\nfrom adaptive_inference import load_predictor\n\n"
        f'predictor = load_predictor(".")\n'
        f"answer = predictor.predict({texts})\nprint({answers}, answer.exit_layers)\n```\n\n"
        f"```sh\necho '{line}' | adaptive-inference predict .\n```"
    )


def _needed(own_code: Sequence[str]) -> list[str]:
    if not own_code:
        return []
    return [
        f"Needs code that is no part of adaptive-inference nor of this folder: {', '.join(own_code)}. Get its file, read "
        "it, and name it: `load_own_code(FILE)` (from adaptive_inference) before `load_predictor`, or `--own-code FILE`."
    ]


def _default(data: CardData) -> str:
    if len(data.exits) == 1:
        return "None: the model has one exit, and every text runs through all layers of this model."
    if not data.calibrated:
        return "Not calibrated: predictions run the whole model unless a rule and a threshold are given."
    if data.default is None:
        return "Default: the whole model; no threshold kept the quality that the goal asks for."
    goal, setting = data.default.goal, data.default.setting
    return (
        f"Default: rule `{setting.rule}` at threshold {setting.threshold:.6g} (`{goal.name}`: {goal.words})."
    )


def _points(points: Sequence[CardPoint]) -> list[str]:
    """Return a table of the operating points, without the columns that nothing is known for."""
    if not points:
        return []
    rows = []
    for item in points:
        goal, setting, seen = item.point.goal, item.point.setting, item.point.seen
        figures = [None, None] if seen is None else [seen.quality, seen.speedup(goal.cost)]
        figures += [item.quality, item.layers_speedup, item.flops_speedup]
        threshold = "" if setting.threshold is None else f"{setting.threshold:.6g}"
        numbers = ["" if value is None else f"{value:.4g}" for value in figures]
        rows.append([f"`{setting.rule}`", f"`{goal.name}`", threshold, *numbers])
    kept = [index for index in range(len(_COLUMNS)) if any(row[index] for row in rows)]
    headers = [name.format(cost=COST_WORDS[points[0].point.goal.cost]) for name in _COLUMNS]
    lines = [[line[index] for index in kept] for line in (headers, ["---"] * len(headers), *rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return ["Operating points of this model (`--rule`, `--threshold`):", table]
