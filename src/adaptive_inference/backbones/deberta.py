"""DeBERTa v1: disentangled attention over exact relative positions."""

from adaptive_inference.backbones._relative import RelativeBackbone


class DebertaBackbone(RelativeBackbone):
    """Drives ``transformers.DebertaModel``."""


BACKBONE = DebertaBackbone
