"""What is checked of `generation` before any stage runs: files, columns, models, exits, policies, numbers of prompts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptive_inference.errors import UserError
from adaptive_inference.settings.inputs import weights_kind

if TYPE_CHECKING:
    from adaptive_inference.settings.generation import Generation, TextModel


def check_texts(generation: Generation, data: Path) -> None:
    """Refuse what could not run, as far as it can be told without a network and without training.

    A checkpoint of the hub is known when `prepare_texts` has fetched its tokenizer; `train_free` looks at the rest.

    Parameters
    ----------
    data
        The folder of local files.

    Raises
    ------
    UserError
        A file or column is missing, a model or its tokenizer cannot be had, an exit is not below the number of blocks, texts
        are longer than the model's positions, or calibration has too few prompts to certify anything.
    """
    if not generation.tasks:
        return
    from adaptive_inference.data.text_splits import check_text_task
    from adaptive_inference.generation.consistency import check_prompts

    for name, task in generation.tasks.items():
        check_text_task(name, task, data)
    asked = generation.calibration
    prompts = min([asked.prompts, *(task.calibration_rows for task in generation.tasks.values())])
    check_prompts(prompts, asked.delta, asked.epsilon)
    for name, model in generation.models.items():
        with _at(f"generation.models.{name}"):
            _check_model(generation, model)


def _check_model(generation: Generation, model: TextModel) -> None:
    from adaptive_inference.generation.start import sketch_decoder
    from adaptive_inference.generation.texts import check_context
    from adaptive_inference.tasks.text_schema import TextSchema

    if weights_kind(model.weights) != "hub" and model.weights != "config":
        from adaptive_inference.decoders.weights import weights_source

        weights_source(model.weights, model.revision, model.sha256)
    if weights_kind(model.tokenizer) == "folder" and not Path(model.tokenizer).expanduser().is_dir():
        raise UserError(
            f"no folder {model.tokenizer!r}; `tokenizer` is train, weights, an existing folder or a hub id"
        )
    decoder = sketch_decoder(model)
    if decoder is None:
        return
    for name, task in generation.tasks.items():
        schema = TextSchema(name, task.metric, task.max_source, task.max_target)
        check_context(schema, decoder.longest, encoder_decoder=decoder.encoder_decoder)
    for name, training in generation.trainings.items():
        if training.exit_layer is not None and training.exit_layer >= decoder.num_blocks:
            raise UserError(
                f"generation.trainings.{name}: exit_layer {training.exit_layer} must be below the decoder's "
                f"{decoder.num_blocks} blocks"
            )
    for name in generation.methods:
        with _at(f"with generation.methods.{name}"):
            policy_of(generation, name).check(decoder.num_blocks)


def policy_of(generation: Generation, name: str, exit_layer: int | None = None, **changes: Any) -> Any:
    """Return the `DecodingPolicy` of a method.

    Parameters
    ----------
    exit_layer
        Of the trained model, which holds where the method has none; None: the training's, as the params have it.
    """
    from adaptive_inference.decoding.policy import EXITS_AT_ONE_BLOCK, DecodingPolicy

    method = generation.methods[name]
    given = method.model_dump(include={"min_layer", "confidence", "decay_tau", "rollback", "max_pending"})
    options = {key: value for key, value in given.items() if value is not None}
    if method.policy in EXITS_AT_ONE_BLOCK:
        trained = exit_layer or generation.trainings[method.training].exit_layer
        options["exit_layer"] = method.exit_layer or trained
    return DecodingPolicy(method.policy, **options | changes)


@contextmanager
def _at(where: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
