"""What every model card says alike: header, task, use, limits. Loads no torch.

`exits.card` writes the card of a model at hand, `reporting.model_card` that of a recommended one from its records.
"""

from __future__ import annotations

from collections.abc import Sequence

import yaml


def header(task: str, title: str) -> str:
    """Return the YAML header that model hubs read, and the heading."""
    body = {
        "library_name": "adaptive-inference",
        "pipeline_tag": "text-classification",  # of scores too: hubs know no tag for them
        "tags": ["adaptive-inference", "early-exit"],
    }
    return f"---\n{yaml.safe_dump(body, sort_keys=True, allow_unicode=True)}---\n\n# {task}: {title}"


#: Metric key -> name for readers; any other is shown under its key.
_METRICS = {
    "f1": "F1",
    "matthews": "Matthews correlation",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "pearson_spearman": "Pearson-Spearman mean",
}


def metric_name(metric: str) -> str:
    """Return how a metric is shown."""
    return _METRICS.get(metric, metric)


def task_line(text: Sequence[str], labels: Sequence[str] | None, metric: str) -> str:
    """Return what goes in and what comes out; without labels a score does."""
    reads = " and ".join(f"`{name}`" for name in text)
    answer = (
        "a score (a number, not clipped to any range)"
        if labels is None
        else "one of " + ", ".join(f"`{name}`" for name in labels)
    )
    return f"Task: reads {reads}, answers {answer}; scored by {metric_name(metric)}."


def usage(class_name: str, text: Sequence[str], labels: Sequence[str] | None) -> str:
    """Return a snippet of Python and a command line that predict with the folder that the card lies in."""
    pair = len(text) > 1
    answers = "answer.labels" if labels is None else "answer.labels, answer.probabilities"
    texts = '[("a text", "another")]' if pair else '["a text", "another"]'
    line = f'{{"{text[0]}": "a text", "{text[1]}": "another"}}' if pair else "a text"
    return (
        f"```python\nfrom adaptive_inference import {class_name}\n\n"
        f'model = {class_name}.from_pretrained(".")\n'
        f"answer = model.predict({texts})\nprint({answers}, answer.exit_layers)\n```\n\n"
        f"```sh\necho '{line}' | adaptive-inference predict .\n```"
    )


def limits(task: str, max_length: int) -> str:
    """Return what the model was not made for."""
    return (
        f"Fine-tuned on task `{task}` alone, on inputs of up to {max_length} tokens (longer ones are cut). Thresholds "
        "were chosen on held-out calibration rows of the same task: on other text both quality and speed-up may differ."
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
