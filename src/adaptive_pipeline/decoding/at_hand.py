"""A method at hand: the model that was assigned to it, its ways to answer, and what its answers say."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from adaptive_inference.errors import UserError
from adaptive_inference.files import read_json
from adaptive_pipeline.params.text_preflight import policy_of
from adaptive_pipeline.runs.layout import TRAININGS_BESIDE
from adaptive_pipeline.runs.record import Record
from adaptive_pipeline.runs.text_records import Decoded, Decoding, TokenKind

if TYPE_CHECKING:
    import numpy as np

    from adaptive_inference.generation.answers import Answering, Request
    from adaptive_inference.tasks.text_schema import TextExample
    from adaptive_pipeline.stage import Stage

#: The way that is the full model: plain ``generate`` of the same weights.
FULL = "full"
RESAMPLES = 1000  # of an interval over rows
#: What `answer_texts` writes: a line for each way and request.
ANSWERS = "answers.jsonl"

Lines = Sequence[Mapping[str, Any]]


class MethodAtHand:
    """A method's model, loaded, and one split of its task as requests.

    Parameters
    ----------
    stage
        With the inputs ``data`` and ``assigned``; the model becomes an input too.
    split
        Of the task.
    rows
        At most so many of it; None: all.

    Attributes
    ----------
    made_from
        What the model must still be, for `Stage.begin`.
    thresholds
        Of the grid; ``[None]`` where the policy reads no fixed one.
    """

    def __init__(self, stage: Stage, split: str, rows: int | None) -> None:
        from adaptive_inference.exits.outputs import pick_device
        from adaptive_inference.generation.classifier import load_classifier
        from adaptive_inference.generation.cost import DecoderCost
        from adaptive_inference.generation.model_dir import load_decoder
        from adaptive_inference.generation.texts import collate_sources, encode_pairs
        from adaptive_inference.tasks.text_schema import TextSchema, load_text_split

        self.generation, self.name, data = (
            stage.params.generation,
            stage.cell.method,
            stage.inputs["data"],
        )
        self.method = self.generation.methods[self.name]
        folder, self.made_from = _assigned_model(stage)
        saved = load_decoder(folder)
        self.device = pick_device(stage.params.runtime.device)
        self.model, self.tokenizer, self.trained_for = (
            saved.model.to(self.device),
            saved.tokenizer,
            saved.trained_for,
        )
        self.classifier = None
        if self.method.confidence == "classifier":
            self.classifier = load_classifier(folder).to(self.device)
        self.policy = policy_of(self.generation, self.name, self.trained_for.exit_layer)
        fixed = self.method.policy in ("full", "static") or self.method.adaptive
        self.thresholds = [None] if fixed else list(self.generation.calibration.thresholds)
        self.schema = TextSchema.load(data)
        self.examples: list[TextExample] = in_random_order(load_text_split(data, split), split)[:rows]
        kind = self.model.config.is_encoder_decoder
        encoded = encode_pairs(self.examples, self.tokenizer, self.schema, encoder_decoder=kind)
        self.pairs = encoded.pairs
        pad = self.tokenizer.pad_token_id
        batches = [collate_sources([pair.source], pad, encoder_decoder=kind) for pair in self.pairs]
        self.requests: list[Request] = [
            {name: tensor.to(self.device) for name, tensor in batch.items()} for batch in batches
        ]
        self.cost = DecoderCost(self.model)

    def plain(self) -> Answering:
        """Return the full model's way: plain ``generate``."""
        from adaptive_inference.generation.answers import Answering

        return Answering(FULL, self.model)

    def way(self, threshold: float | None) -> Answering:
        """Return the method's way at a threshold."""
        from adaptive_inference.decoding.adaptive import AdaptiveThreshold
        from adaptive_inference.decoding.generate import EarlyExitDecoding
        from adaptive_inference.generation.answers import Answering

        given = {} if threshold is None else {"threshold": threshold}
        policy = policy_of(self.generation, self.name, self.trained_for.exit_layer, **given)
        adaptive = None
        if self.method.adaptive:
            adaptive = AdaptiveThreshold(reference=self.method.adaptive == "reference")
        decoding = EarlyExitDecoding(policy, adaptive, classifier=self.classifier)
        return Answering(way_name(threshold), self.model, decoding)

    def text(self, tokens: Sequence[int]) -> str:
        """Return written tokens as text."""
        from adaptive_inference.generation.texts import written_texts

        return written_texts([tokens], self.tokenizer)[0]

    def texts(self, lines: Lines, name: str) -> list[str]:
        """Return what a way wrote, in the order of the requests."""
        own = sorted((line for line in lines if line["way"] == name), key=lambda line: line["request"])
        return [self.text(line["tokens"]) for line in own]

    def decoded(self, lines: Lines, names: Sequence[str], seed: int) -> dict[str, Decoded]:
        """Return what each named way, the full model's included, wrote and cost, by name.

        Parameters
        ----------
        lines
            Of all requests that the named ways have answered, and of no others.
        seed
            Of the intervals over rows.
        """
        from adaptive_inference.generation.measure import summarise_answers
        from adaptive_inference.tasks.text_quality import score_texts

        metric = self.schema.metric
        asked = [line for line in lines if line["way"] in (FULL, *names)]
        accepted = [example.accepted for example in self.examples]

        def quality(texts: Sequence[str]) -> dict[str, float]:
            return {metric: score_texts(metric, texts, accepted[: len(texts)]).quality}

        rows = {row["way"]: row for row in summarise_answers(asked, FULL, self.text, quality)}
        full_flops = _per_token(rows[FULL])
        return {
            name: self._decoded(rows[name], asked, full_flops, seed) for name in dict.fromkeys((FULL, *names))
        }

    def _decoded(self, row: Mapping[str, Any], lines: Lines, full_flops: float, seed: int) -> Decoded:
        from adaptive_inference.tasks.text_quality import score_each

        quality, tokens = row["quality"][self.schema.metric], row["tokens_written"]
        texts = self.texts(lines, row["way"])
        each = score_each(self.schema.metric, texts, [item.accepted for item in self.examples[: len(texts)]])
        low, high = _interval(each, quality, seed)
        deepest = self.trained_for.blocks
        flops, calls = _per_token(row), row["block_calls_per_token"]
        return Decoded(
            threshold=threshold_of(row["way"]),
            rows=len(texts),
            tokens=tokens,
            quality=quality,
            quality_low=low,
            quality_high=high,
            agreement=row["token_agreement"],
            same_texts=row["sequence_agreement"],
            blocks=row["blocks_per_token"],
            paper_blocks=row["published_blocks_per_token"],
            block_calls=calls,
            calls_speedup=self.trained_for.blocks / calls,
            shallow_share=sum(count for depth, count in row["depths"].items() if depth < deepest) / tokens,
            flops=flops,
            flops_speedup=full_flops / flops,
            kinds=self._kinds(lines, row["way"]),
        )

    def _kinds(self, lines: Lines, name: str) -> dict[str, TokenKind]:
        """Return depth and agreement of tokens by their known difficulty, of texts as long as their target."""
        from adaptive_inference.generation.texts import token_difficulties

        if self.schema.difficulties is None:
            return {}
        full = {line["request"]: line["tokens"] for line in lines if line["way"] == FULL}
        found: dict[str, list[tuple[int, bool]]] = {}
        for line in (line for line in lines if line["way"] == name):
            number, tokens = line["request"], line["tokens"]
            pair, whole = self.pairs[number], full[line["request"]]
            if len(tokens) != len(pair.target):
                continue
            kinds = token_difficulties(self.examples[number], pair)
            for place, (kind, token, depth) in enumerate(zip(kinds, tokens, line["depth"], strict=True)):
                found.setdefault(kind, []).append((depth, whole[place : place + 1] == [token]))
        return {
            kind: TokenKind(
                tokens=len(given),
                blocks=sum(depth for depth, _ in given) / len(given),
                agreement=sum(same for _, same in given) / len(given),
            )
            for kind, given in found.items()
        }

    def fill(self, record: Decoding) -> None:
        """Say in a record what was decoded with."""
        record.training, record.policy = self.method.training, self.method.policy
        record.exit_layer, record.blocks = self.policy.exit_layer, self.trained_for.blocks
        record.metric = self.schema.metric


def in_random_order(examples: Sequence[TextExample], split: str) -> list[TextExample]:
    """Return a split's rows in an order of its own, the same in every run, so that its first rows are a random sample.

    Files are often sorted, by article say, and the first rows would then stand for a part of the task only: neither a
    certificate nor a score would hold for the rest.
    """
    order = list(examples)
    Random(f"order of {split}").shuffle(order)
    return order


def way_name(threshold: float | None) -> str:
    """Return the name of a method's way in a journal."""
    return "method" if threshold is None else f"method {threshold!r}"


def threshold_of(name: str) -> float | None:
    """Return the threshold of a way by its name; None: it has none."""
    last = name.rpartition(" ")[2]
    return float(last) if last[:1].isdigit() else None


def journal_file(stage: Stage, name: str) -> Path:
    """Return where a stage keeps finished requests until it has succeeded: of this very work, by its record's id."""
    return stage.scratch / f"{name}-{stage.record.record_id}.jsonl"


def decoding_keys(stage: Stage) -> tuple[str, ...]:
    """Return the params that decoding with a method depends on, dotted."""
    keys = (f"methods.{stage.cell.method}", "calibration", "evaluation")
    return (*(f"generation.{key}" for key in keys), "runtime")


def check_texts(stage: Stage, at_hand: MethodAtHand) -> None:
    """Refuse texts of another model than the one at hand.

    Raises
    ------
    UserError
        The input ``texts`` was written by another one.
    """
    wrote = Record.load(stage.inputs["texts"].parent)
    if wrote.inputs.get("model") != at_hand.made_from["model"]:
        raise UserError(
            f"{stage.inputs['texts']} was written by another model of {at_hand.name}; run answer_texts again"
        )


def _assigned_model(stage: Stage) -> tuple[Path, dict[str, str]]:
    """Take the model that was assigned to the stage's method as an input; return its folder, and what it must be."""
    note: dict[str, Any] = read_json(stage.inputs["assigned"])
    folder = stage.inputs["assigned"].parent / TRAININGS_BESIDE / note["training"] / "train/model"
    return stage.add_input("model", Path(os.path.normpath(folder))), {"model": note["digest"]}


def _per_token(row: Mapping[str, Any]) -> float:
    return row["decoder_flops"] / row["tokens_written"]


def _interval(each_N: np.ndarray, quality: float, seed: int) -> tuple[float | None, float | None]:
    """Return the 95 % interval over rows of a quality that is the mean of its rows; of any other (BLEU), none."""
    from adaptive_inference.evaluation.statistics import bootstrap

    if abs(float(each_N.mean()) - quality) > 1e-9:
        return None, None
    return bootstrap(lambda drawn: each_N[drawn].mean(-1), len(each_N), RESAMPLES, seed)
