"""RoBERTa: BERT's layers; positions count from the padding index on; its classification head owns the dense layer."""

from transformers import PreTrainedConfig

from adaptive_inference.backbones.base import Backbone, HeadRecipe


class RobertaBackbone(Backbone):
    """Drives ``transformers.RobertaModel``."""

    removable_heads = True
    reduces_tokens = True
    stock_head = ("classifier.dense", "classifier.out_proj")

    @classmethod
    def longest(cls, config: PreTrainedConfig) -> int:
        """Positions start at ``pad_token_id + 1``."""
        return int(config.max_position_embeddings) - int(config.pad_token_id) - 1

    @property
    def head_recipe(self) -> HeadRecipe:
        """The stock head drops out before its dense layer too."""
        recipe = super().head_recipe
        return HeadRecipe(recipe.activation, recipe.dropout, recipe.dropout)


BACKBONE = RobertaBackbone
