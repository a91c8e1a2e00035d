"""DeBERTa v2 and v3: bucketed relative positions; v2 mixes a convolution in after the first layer."""

import torch
from torch import Tensor, nn

from adaptive_inference.backbones._relative import RelativeBackbone
from adaptive_inference.backbones.base import Backbone, Context


class DebertaV2Backbone(RelativeBackbone):
    """Drives ``transformers.DebertaV2Model`` (v3 checkpoints are of this class)."""

    def run_layer(self, index: int, hidden_BNH: Tensor, context: Context) -> Tensor:
        """See `Backbone.run_layer`; the convolution belongs to the first layer, as in the stock encoder."""
        output_BNH = super().run_layer(index, hidden_BNH, context)
        convolution = self.model.encoder.conv
        if index > 0 or convolution is None:
            return output_BNH
        tokens_BN = context.tokens_BN
        if tokens_BN is None:
            tokens_BN = torch.ones(hidden_BNH.shape[:2], dtype=torch.long, device=hidden_BNH.device)
        return convolution(hidden_BNH, output_BNH, tokens_BN)

    def layer_parameters(self, start: int, stop: int) -> list[nn.Parameter]:
        """Count the convolution with the first layer."""
        convolution = self.model.encoder.conv if start == 0 and stop > 0 else None
        own = super().layer_parameters(start, stop)
        return own + ([] if convolution is None else list(convolution.parameters()))

    def copy_layer(self, index: int, other: Backbone, source: int) -> None:
        """Take over the convolution with the first layer: it follows whatever layer is the first."""
        super().copy_layer(index, other, source)
        if index == 0 and self.model.encoder.conv is not None:
            self.model.encoder.conv.load_state_dict(other.model.encoder.conv.state_dict())


BACKBONE = DebertaV2Backbone
