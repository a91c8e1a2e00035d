"""Answer texts with a saved model: which rule, at which threshold, and what comes out. Loads torch with a model only.

Shapes: N texts, C classes, L layers.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adaptive_inference.engine import Decisions, Engine, Stream, StreamStopped
from adaptive_inference.engine.stream import WINDOW_BATCHES
from adaptive_inference.errors import UserError, nearest
from adaptive_inference.exit_rules._softmax import shifted_exponentials
from adaptive_inference.exits.deployment import is_deployment
from adaptive_inference.exits.layout import open_model
from adaptive_inference.serving.onnx_model import OnnxModel
from adaptive_inference.serving.prediction import Prediction, Predictions
from adaptive_inference.serving.setting import choose_setting
from adaptive_inference.tasks.encode import Feature, encode_texts, pad_rows
from adaptive_inference.tasks.schema import SCHEMA_FILE, Schema

if TYPE_CHECKING:
    import torch

    from adaptive_inference.cost.flops import FlopCount
    from adaptive_inference.exits.model import ExitModule
    from adaptive_inference.serving.onnx_model import FlopTable
    from adaptive_inference.tasks.text_schema import TextSchema

Text = str | Sequence[str]

#: Where a model may answer; ``auto`` is CUDA where there is one.
DEVICES = ("auto", "cpu", "cuda")


class Predictor:
    """A model with a rule and a threshold, ready to answer.

    Parameters
    ----------
    model
        With schema and tokenizer, as `load_model` returns it, or an exported one.
    rule, threshold
        Default: the operating point that the calibration recommends. A rule alone takes that rule's operating
        point; a threshold alone changes the recommended rule's. Without calibration: full depth.

    Raises
    ------
    UserError
        The model has no schema or tokenizer, or the rule does not fit it.
    """

    def __init__(
        self, model: ExitModule | OnnxModel, rule: str | None = None, threshold: float | None = None
    ) -> None:
        needed = {SCHEMA_FILE: model.schema, "tokenizer_config.json": model.tokenizer}
        if lacking := [name for name, part in needed.items() if part is None]:
            raise UserError(
                f"this model was saved without {' and '.join(lacking)}, which answers need; load one that a training stage "
                "or export saved"
            )
        self.model, self.schema = model, model.schema
        self.engine = self._engine(rule, threshold, None)
        self._cost = self._flop_count()

    def under(
        self, rule: str | None = None, threshold: float | None = None, deepest: int | None = None
    ) -> Predictor:
        """Return a predictor of the same model that answers otherwise; nothing is loaded again.

        Parameters
        ----------
        rule, threshold
            See `Predictor`.
        deepest
            Index of the exit at which every text has left; see `Engine`.

        Raises
        ------
        UserError
            The rule does not fit the model, or there is no such exit.
        """
        other = copy.copy(self)
        other.engine = self._engine(rule, threshold, deepest)
        if other.engine.rule.needs_certainty != self.engine.rule.needs_certainty:
            other._cost = other._flop_count()
        return other

    def _engine(self, rule: str | None, threshold: float | None, deepest: int | None) -> Engine:
        model = self.model
        setting = choose_setting(model.calibration, len(model.exits), model.schema, rule, threshold)
        runner = model.runner if isinstance(model, OnnxModel) else None
        engine = Engine(model, setting.rule, setting.threshold, deepest=deepest, runner=runner)
        if isinstance(model, OnnxModel):
            model.check(setting)
        return engine

    def _flop_count(self) -> FlopCount | FlopTable:
        from adaptive_inference.cost.flops import FlopCount

        if isinstance(self.model, OnnxModel):
            return self.model.cost
        return FlopCount(self.model, self.engine.rule.needs_certainty, self.model.schema.max_length)

    @property
    def full_layers(self) -> int:
        """Layers of the full model: calibration knows them; without it, those of this model's last exit."""
        return int((self.model.calibration or {}).get("num_layers") or self.model.exits[-1])

    def answer(self, text: Text) -> Prediction:
        """Answer one text; see `predict`."""
        (answer,) = self._together(self._rows([text]))
        return answer

    def stream(self, texts: Iterable[Text], batch_size: int = 1) -> Iterator[Prediction]:
        """Answer texts as they come, in their order: each at once, or in full batches, see `engine.stream.Stream`.

        In batches up to two windows of texts are read before the first of them is answered.

        Raises
        ------
        UserError
            A text is missing or of the wrong shape; those read some windows before it are answered.
        StreamStopped
            The model failed, as by running out of memory; ``finished`` holds the `Prediction` of texts, by their place,
            that were answered and wait for one before them.
        """
        check_batch_size(batch_size)
        return self._stream(texts, batch_size, 1 if batch_size == 1 else WINDOW_BATCHES * batch_size)

    def predict(self, texts: Sequence[Text], batch_size: int = 1) -> Predictions:
        """Answer each text at the first exit where the rule fires.

        Parameters
        ----------
        texts
            Strings, or pairs of strings for a task with two text columns.
        batch_size
            Rows at once, of like length; each gets the answer that it gets alone, up to rounding. More rows than that
            run as a stream, see `stream`.

        Raises
        ------
        UserError
            A text is missing or of the wrong shape; then none is answered.
        StreamStopped
            The model failed; see `stream`.
        """
        check_batch_size(batch_size)
        if isinstance(texts, str):
            raise UserError("`texts` is one string; give a list of them")
        for row, text in enumerate(texts):
            try:
                check_text(text, self.schema)
            except UserError as error:
                raise UserError(f"text {row}: {error}") from None
        if 1 < len(texts) <= batch_size:  # one batch: nothing to fill it up with
            answers = self._together(self._rows(texts))
        else:
            answers = list(self._stream(texts, batch_size, max(len(texts), 1)))
        layers = np.array([answer.exit_layer for answer in answers], dtype=np.int64)
        cut = np.array([answer.cut for answer in answers], dtype=bool)
        labels = [answer.label for answer in answers]
        probabilities = None
        if self.schema.labels is not None:
            probabilities = np.array([answer.probabilities for answer in answers])
            probabilities = probabilities.reshape(-1, len(self.schema.labels))
        flops = np.array([answer.flops for answer in answers], dtype=np.int64)
        survivors = [answer.survivors for answer in answers] if self.model.removes_tokens else None
        return Predictions(labels, probabilities, layers, cut, flops, survivors)

    def _stream(self, texts: Iterable[Text], batch_size: int, together: int) -> Iterator[Prediction]:
        """Answer texts in their order; so many are tokenised together."""
        source, under_way, finished = iter(texts), {}, {}

        def rows() -> Iterator[Feature]:
            while group := list(islice(source, together)):
                yield from self._rows(group)

        if batch_size == 1:
            for row in rows():
                yield from self._together([row])
            return

        def noted() -> Iterator[Feature]:
            for place, row in enumerate(rows()):
                under_way[place] = row
                yield row

        following = 0
        try:
            for places, decisions in Stream(self.engine, batch_size, self._collate).run(noted()):
                found = self._predictions([under_way.pop(place) for place in places.tolist()], decisions)
                finished |= zip(places.tolist(), found, strict=True)
                while following in finished:
                    yield finished.pop(following)
                    following += 1
        except StreamStopped as stopped:
            stopped.finished = dict(sorted(finished.items()))
            raise

    def _rows(self, texts: Sequence[Text]) -> list[Feature]:
        """Return texts as the model reads them, with whether each was ``cut``."""
        tokenizer = self.model.tokenizer
        checked = [check_text(text, self.schema) for text in texts]
        rows = encode_texts(checked, tokenizer, self.schema.max_length)
        known = self.model.vocabulary
        if any(max(row["input_ids"], default=known) >= known for row in rows):
            raise UserError(
                "the tokenizer gives no token, or one that the model does not know, and is of another model; put the "
                "model's own tokenizer files into its folder"
            )
        cut = self._cut(checked, [row["length"] for row in rows])
        return [row | {"cut": place in cut} for place, row in enumerate(rows)]

    def _collate(self, rows: Sequence[Feature]) -> Mapping[str, Any]:
        return pad_rows(rows, self.model.tokenizer.pad_token_id)

    def _together(self, rows: Sequence[Feature]) -> list[Prediction]:
        """Answer rows as one batch."""
        return self._predictions(rows, self.engine.run(self._collate(rows)))

    def _cut(self, texts: Sequence[Sequence[str]], lengths: Sequence[int]) -> set[int]:
        """Return which rows lost tokens: of those as long as the limit, those that are longer when nothing is cut."""
        limit = self.schema.max_length
        full = [place for place, length in enumerate(lengths) if length >= limit]
        if not full:
            return set()
        whole = encode_texts([texts[place] for place in full], self.model.tokenizer, None)
        return {place for place, row in zip(full, whole, strict=True) if row["length"] > limit}

    def _predictions(self, rows: Sequence[Feature], decisions: Decisions) -> list[Prediction]:
        """Return the answers to rows that were decided on together."""
        lengths = np.array([row["length"] for row in rows])
        costs = self._cost.by_exit(lengths, decisions.survivors)
        flops = costs[np.arange(len(rows)), decisions.exit_indices]
        return [
            self._prediction(decisions, number, int(flops[number]), row["cut"])
            for number, row in enumerate(rows)
        ]

    def _prediction(self, decisions: Decisions, number: int, flops: int, cut: bool) -> Prediction:
        logits, index = decisions.logits[number], int(decisions.exit_indices[number])
        layer, survivors = int(decisions.exit_layers[number]), None
        if decisions.survivors is not None:
            survivors = decisions.survivors[number, :layer].tolist()
        label, probabilities = float(logits[0]), None
        if self.schema.labels is not None:
            label = self.schema.labels[int(logits.argmax())]
            probabilities = softmax(self.engine.calibrator.logits(logits, index))
        layers_run = int(self.model.layers_cost[index])
        return Prediction(label, probabilities, layer, layers_run, cut, flops, survivors)


def load_predictor(
    folder: str | Path,
    rule: str | None = None,
    threshold: float | None = None,
    device: str = "cpu",
    revision: str | None = None,
    threads: int | None = None,
) -> Predictor:
    """Load a saved model, ready to answer texts.

    Parameters
    ----------
    folder
        An exported model's folder, a method's run folder, or a model's id on a hub.
    rule, threshold
        See `Predictor`.
    device
        ``cpu``, ``cuda``, or ``auto``: CUDA where there is one.
    revision
        Of an id; see `hub.model_folder`.
    threads
        Of a model exported for ONNX Runtime: threads that one operator may use; None: one for each core. PyTorch's own
        are set by `torch.set_num_threads`, or OMP_NUM_THREADS.

    Raises
    ------
    UserError
        There is no model that this release can read, the rule does not fit it, or there is no such device.
    """
    from adaptive_inference.serving.hub import model_folder

    return Predictor(load_on(model_folder(folder, revision), device, threads), rule, threshold)


def load_on(folder: str | Path, device: str, threads: int | None = None) -> ExitModule | OnnxModel:
    """Load a saved model, with weights onto a device; see `load_predictor`."""
    saved = open_model(folder)
    if is_deployment(saved.home):
        if device not in ("auto", "cpu"):
            raise UserError(
                f"device {device}: a model exported for ONNX Runtime answers on the cpu; leave it out"
            )
        return OnnxModel(saved, threads)
    if threads is not None:
        raise UserError(
            f"threads {threads} goes with a model exported for ONNX Runtime, and {folder} is run by PyTorch: set its "
            "threads by torch.set_num_threads, or OMP_NUM_THREADS"
        )
    from adaptive_inference.exits.load import load_model

    place = device_of(device)
    return load_model(folder).to(place)


def device_of(name: str) -> torch.device:
    """Return one of `DEVICES`, or say that it is not there."""
    import torch

    from adaptive_inference.exits.outputs import pick_device

    if name not in DEVICES:
        raise UserError(f"no device {name!r}; allowed: {', '.join(DEVICES)}{nearest(name, list(DEVICES))}")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda: torch sees no CUDA device here; take cpu, or auto")
    return pick_device(name)


def check_batch_size(batch_size: int) -> None:
    """Refuse what is no number of rows."""
    if not isinstance(batch_size, int) or batch_size < 1:
        raise UserError(f"batch size {batch_size} must be a whole number from 1, e.g. 32")


def check_text(text: Text, schema: Schema | TextSchema) -> tuple[str, ...]:
    """Return the text or texts of one row, or say what the task needs."""
    texts = (text,) if isinstance(text, str) else tuple(text) if isinstance(text, (list, tuple)) else ()
    if len(texts) != len(schema.text) or not all(isinstance(item, str) for item in texts):
        needs = "one string" if len(schema.text) == 1 else f"{len(schema.text)} strings"
        raise UserError(
            f"{text!r} does not fit task {schema.task}, which reads {needs} ({', '.join(schema.text)})"
        )
    return texts


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities over the last axis."""
    exponentials = shifted_exponentials(logits)[1]
    return exponentials / exponentials.sum(axis=-1, keepdims=True)
