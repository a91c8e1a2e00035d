"""The card, the README.md of an exported decoder: what it writes, how well, how to use it. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass

from adaptive_inference.decoding.policy import DecodingPolicy
from adaptive_inference.serving.generator_dir import WITHOUT_THRESHOLD, Choice, SavedGenerator
from adaptive_inference.serving.metadata import (
    NO_DATASET,
    NO_ENCODER,
    WRITES,
    Dataset,
    Encoder,
    Measured,
    front_matter,
)
from adaptive_inference.tasks.text_schema import TextSchema

#: Metric key -> name for readers.
METRICS = {
    "bleu": "BLEU",
    "rouge_lsum": "ROUGE-Lsum",
    "squad_f1": "SQuAD F1",
    "exact_match": "exact match",
}
_POLICIES = {
    "full": "every token takes all blocks",
    "static": "every token takes the first {exit_layer} blocks alone",
    "calm": "a token leaves after the first block, from block {first_test} on, that is sure enough; the blocks above get "
    "keys and values from its state",
    "keep": "a token leaves after block {exit_layer} where that is sure enough; the blocks above catch up on it later",
    "roll_back": "a token leaves after block {exit_layer} where that is sure enough, and is taken back where all blocks "
    "find it unlikely",
    "verify": "a token leaves after block {exit_layer} where that is sure enough, and is taken back where all blocks "
    "would have written another: the text is that of the full model, token for token",
}


@dataclass(frozen=True)
class Origin:
    """What a decoder was before training, and which rows it was trained on.

    Attributes
    ----------
    model
        None: random weights.
    dataset
        Where the rows come from.
    """

    model: Encoder | None = NO_ENCODER
    dataset: Dataset = NO_DATASET


def render(saved: SavedGenerator, origin: Origin) -> str:
    """Return the card's text."""
    schema, decoding = saved.schema, saved.decoding
    results = _results(decoding.default, METRICS[schema.metric], schema.metric)
    front = front_matter(schema, origin.model or NO_ENCODER, origin.dataset, results, WRITES)
    parts = [
        f"---\n{front}\n---",
        f"# {schema.task}: a decoder with early exit",
        _task(saved),
        "## How to use",
        _usage(schema),
        "## How it writes",
        _policy(decoding.policy),
        _threshold(saved),
        *_choices(decoding.choices, METRICS[schema.metric]),
        "## Limits",
        f"Made for task `{schema.task}` alone: reads up to {schema.max_source} tokens (longer texts are cut, and it says "
        f"so), writes up to {schema.max_target} unless told otherwise. Thresholds were chosen on held-out calibration rows "
        "of the same task: on other text both quality and speed may differ. Fewer blocks and FLOPs are not less time on "
        "every machine: measure it on yours.",
        "## Licence",
        f"{_licence(origin.model)} What the training rows allow is not known here. adaptive-inference, which runs the "
        "model, is under Apache-2.0.",
    ]
    return "\n\n".join(parts) + "\n"


def _results(default: Choice | None, name: str, metric: str) -> list[Measured]:
    if default is None or default.measured is None:
        return []
    seen = default.measured
    return [
        Measured(metric, seen.quality, name),
        Measured("flops_speedup", seen.flops_speedup, "speed-up in FLOPs"),
    ]


def _task(saved: SavedGenerator) -> str:
    schema, trained = saved.schema, saved.trained_for
    columns = " and ".join(f"`{name}`" for name in schema.text)
    template = "" if schema.source_text is None else f", as `{schema.source_text}`"
    loss = (
        trained.loss
        if trained.exit_layer is None
        else f"{trained.loss}, exit after block {trained.exit_layer}"
    )
    return (
        f"Task: reads {columns}{template}, writes a text; scored by {METRICS[schema.metric]}. A `{trained.family}` of "
        f"{trained.blocks} decoder blocks, trained with `{loss}`."
    )


def _usage(schema: TextSchema) -> str:
    pair = len(schema.text) > 1
    texts = "[(" + ", ".join('"a text"' for _ in schema.text) + ")]" if pair else '["a text"]'
    line = "{" + ", ".join(f'"{name}": "a text"' for name in schema.text) + "}" if pair else "a text"
    return (
        "The library alone is enough; in a clone of adaptive-inference:\n\n"
        "```sh\npip install '.[torch]'\n```\n\n"
        "Then, in this folder (from elsewhere name its path, or its id on a hub):\n\n"
        "```python\nfrom adaptive_inference import load_generator\n\n"
        'generator = load_generator(".")\n'
        f"answer = generator.generate({texts})[0]\n"
        "print(answer.text, answer.tokens, answer.depth)  # depth: blocks that each token came from\n```\n\n"
        f"```sh\necho '{line}' | adaptive-inference generate .\n```"
    )


def _policy(policy: DecodingPolicy) -> str:
    words = _POLICIES[policy.kind].format(exit_layer=policy.exit_layer, first_test=policy.first_test)
    return f"Policy `{policy.kind}`: {words}."


def _threshold(saved: SavedGenerator) -> str:
    decoding = saved.decoding
    if decoding.policy.kind in WITHOUT_THRESHOLD:
        return "It reads no threshold."
    if decoding.adaptive:
        return (
            f"The threshold is estimated as texts are written (`{decoding.adaptive}`); `threshold=` fixes it."
        )
    default = decoding.default
    if default is None:
        return "No threshold was calibrated."
    if not default.reached:
        return f"Threshold 1, at which no token leaves early: none below reached the goal ({_goal(default)})."
    return (
        f"Threshold {default.threshold:g} (`{default.goal}`: {_goal(default)}), unless another is given: `threshold=`, or "
        "`--threshold`, from 0 to 1."
    )


def _goal(choice: Choice) -> str:
    if choice.goal == "certified":
        return f"mean loss of consistency at most {choice.value:g}, certified on the calibration rows"
    return (
        f"at least {choice.value:.0%} of the full model's quality on the calibration rows, without a promise"
    )


def _choices(choices: tuple[Choice, ...], metric: str) -> list[str]:
    """Return a table of what calibration chose, without columns that nothing is known for."""
    if not any(item.measured for item in choices):
        return []
    header = (
        "goal", "threshold", f"{metric}, evaluation split", "of the full model", "same tokens as the full model",
        "blocks per token", "decoder FLOPs per token", "rows",
    )  # fmt: skip
    lines = ["| " + " | ".join(header) + " |", "| --- |" + " ---: |" * (len(header) - 1)]
    for item in choices:
        seen = item.measured
        if seen is None:
            continue
        cells = [
            f"`{item.goal}`",
            "" if item.threshold is None else f"{item.threshold:g}",
            f"{seen.quality:.4f}",
            f"{seen.full_quality:.4f}",
            f"{seen.agreement:.1%}",
            f"{seen.blocks:.2f}",
            f"{seen.flops_speedup:.2f} times fewer",
            str(seen.rows),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return ["Measured on rows that chose nothing, blocks that caught up later included:", "\n".join(lines)]


def _licence(model: Encoder | None) -> str:
    return "The weights were trained from random ones on the task's rows." if model is None else model.words
