"""DeBERTa v1: disentangled attention over exact relative positions."""

from adaptive_inference.backbones._relative import RelativeBackbone


class DebertaBackbone(RelativeBackbone):
    """Drives ``transformers.DebertaModel``.

    Its attention fills masked scores with the least fp32 number, which is none of bf16.
    """

    autocasts = False


BACKBONE = DebertaBackbone
