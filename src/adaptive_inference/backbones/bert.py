"""BERT: post-layer-norm encoder with absolute positions and a pre-trained pooler."""

from adaptive_inference.backbones.base import Backbone


class BertBackbone(Backbone):
    """Drives ``transformers.BertModel``, whose names and calls are the defaults of `Backbone`."""

    removable_heads = True
    reduces_tokens = True
    stock_head = ("bert.pooler.dense", "classifier")


BACKBONE = BertBackbone
