"""Put exits on a pre-trained encoder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from adaptive_inference.backbones._own_head import check_own_head, class_order, order_told
from adaptive_inference.backbones.base import Backbone
from adaptive_inference.backbones.load import check_fit, layer_count, load_backbone, load_tokenizer
from adaptive_inference.errors import UserError
from adaptive_inference.exits.head import AttentionHead, fresh_linear, make_heads, pooler_copy, seeded
from adaptive_inference.exits.model import MultiExitModel
from adaptive_inference.tasks.schema import Schema
from adaptive_inference.token_reduction.reduction import TokenReduction

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from adaptive_inference.settings.inputs import Backbone as BackboneParams

logger = logging.getLogger("adaptive_inference")

_CLASSIFIER, _POOLER, _CERTAINTY, _STUDENT, _PREDICTOR = range(5)  # streams of one exit's generator


def build_model(
    backbone_params: BackboneParams,
    schema: Schema,
    seed: int,
    certainty: bool = False,
    exits: Sequence[int] | None = None,
    num_layers: int | None = None,
    inner_head: str = "as_backbone",
    reduces: bool = False,
) -> MultiExitModel:
    """Load the encoder and give it fresh heads, or the checkpoint's own after the last layer.

    Layers above the last exit are not loaded. Fresh weights depend on the seed and the exit's layer only, so the
    heads of EE, SWEET and of the multi-model's members start equal.

    Parameters
    ----------
    backbone_params
        A section of ``backbones`` in the params.
    schema
        Gives the number of outputs and the longest input.
    seed
        Of the fresh weights.
    certainty
        Add LTE's certainty heads.
    exits
        Exit layers in place of ``backbone_params.exits``.
    num_layers
        Layers kept; default the last exit.
    inner_head
        ``attention``: exits below the last have FastBERT's head.
    reduces
        Add contribution predictors and thresholds, by which tokens are removed (AdapLeR).

    Raises
    ------
    UserError
        An exit lies outside 1..L, the task's inputs are longer than the encoder's positions, or the checkpoint's own head
        does not answer the task.
    """
    exits = tuple(backbone_params.exits if exits is None else exits)
    check_fit(backbone_params, exits, schema.task, schema.max_length)
    check_own_head(backbone_params, schema.task, schema.kind, schema.labels)
    backbone = load_backbone(
        backbone_params.weights,
        backbone_params.revision,
        backbone_params.sha256,
        num_layers=exits[-1] if num_layers is None else num_layers,
        head=backbone_params.head,
    )
    tokenizer = load_tokenizer(backbone_params.weights, backbone_params.revision)
    pooler, read = backbone_params.pooler, backbone_params.read
    return add_exits(backbone, exits, schema, seed, pooler, read, certainty, tokenizer, inner_head, reduces)


def add_exits(
    backbone: Backbone,
    exits: Sequence[int],
    schema: Schema,
    seed: int,
    pooler: str = "per_exit",
    read: str = "first",
    certainty: bool = False,
    tokenizer: PreTrainedTokenizerBase | None = None,
    inner_head: str = "as_backbone",
    reduces: bool = False,
) -> MultiExitModel:
    """Put heads on a loaded encoder; see `build_model`."""
    width, pretrained = backbone.hidden_size, backbone.pool_dense()
    with torch.random.fork_rng(
        devices=[]
    ):  # torch draws for every layer that it makes, before ours overwrite it
        heads = make_heads(len(exits), width, schema.outputs, pooler, read, backbone.head_recipe, inner_head)
        for layer, head in zip(exits, heads, strict=True):
            fresh_linear(head.classifier, seeded(seed, layer, _CLASSIFIER))
            if isinstance(head, AttentionHead):
                for index, linear in enumerate((head.narrow, head.query_key_value, head.mix, head.dense)):
                    fresh_linear(linear, seeded(seed, layer, _STUDENT, index))
            elif head.dense is not None:
                head.dense = pooler_copy(pretrained, width, seeded(seed, layer, _POOLER))
        own = backbone.classifier()
        if own is not None and exits[-1] == backbone.num_layers:
            _copy_classes(own, heads[-1].classifier, backbone, schema)
        shared = pooler_copy(pretrained, width, seeded(seed, 0, _POOLER)) if pooler == "shared" else None
        sure = [fresh_linear(nn.Linear(width, 1), seeded(seed, layer, _CERTAINTY)) for layer in exits]
        reduction = _fresh_reduction(exits[-1], width, seed) if reduces else None
    return MultiExitModel(
        backbone, exits, heads, shared, sure if certainty else None, schema, tokenizer, reduction
    )


def _fresh_reduction(layers: int, width: int, seed: int) -> TokenReduction:
    reduction = TokenReduction(layers, width)
    for index, predictor in enumerate(reduction.predictors):
        for part, linear in enumerate((predictor.inner, predictor.outer)):
            fresh_linear(linear, seeded(seed, index + 1, _PREDICTOR, part))
    return reduction


def _copy_classes(own: nn.Linear, classifier: nn.Linear, backbone: Backbone, schema: Schema) -> None:
    """Fill a classifier with a checkpoint's own, its outputs in the order of the task's classes."""
    order = class_order(backbone.config, schema.labels)
    if told := order_told(backbone.config, schema.labels, order):
        logger.info(told)
    with torch.no_grad():
        classifier.weight.copy_(own.weight[order])
        classifier.bias.copy_(own.bias[order])


def start_from_full(model: MultiExitModel, full: MultiExitModel) -> None:
    """Give a model the full fine-tuned model's encoder, its last head and a shared pooler.

    Raises
    ------
    UserError
        The model's last exit is not after the full model's last layer.
    """
    check_last_exit(model.exits, full.exits[-1])
    start_from_layers(model, full, range(full.exits[-1]))


def check_last_exit(exits: Sequence[int], layers: int) -> None:
    """Refuse exits of a model that starts from the full one of L layers, unless the last is after layer L."""
    if exits[-1] != layers:
        raise UserError(
            f"a method that starts from the full model needs an exit after its last layer, {layers}; the exits are "
            f"{list(exits)}: add it to `exits`"
        )


def start_from_layers(model: MultiExitModel, full: MultiExitModel, layers: Sequence[int]) -> None:
    """Give a model another one's embeddings, some layers (0-based), last head, shared pooler and token reduction."""
    ours, theirs = model.backbone, full.backbone
    with torch.no_grad():
        for item, source in zip(ours.input_parameters(), theirs.input_parameters(), strict=True):
            item.copy_(source)
    for index, layer in enumerate(layers):
        ours.copy_layer(index, theirs, layer)
    model.heads[-1].load_state_dict(full.heads[-1].state_dict())
    if model.pooler is not None and full.pooler is not None:
        model.pooler.load_state_dict(full.pooler.state_dict())
    if model.reduction is not None and full.reduction is not None:
        model.reduction.load_state_dict(full.reduction.state_dict())


def full_exits(backbone_params: BackboneParams) -> tuple[int]:
    """Return the exits of the full model: its last layer alone."""
    return (layer_count(backbone_params.weights, backbone_params.revision),)
