"""Low-rank adapters (LoRA) by peft, which the extra `lora` brings: trained in place of the weights, merged afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from transformers import PreTrainedModel

from adaptive_inference.errors import UserError
from adaptive_inference.settings.generation import Lora

if TYPE_CHECKING:
    from peft import PeftModel


def add_adapters(model: PreTrainedModel, settings: Lora) -> PeftModel:
    """Freeze a model and put adapters into its linear layers, in place; train the model itself, then `merge` the rest.

    Adapters start at no change: one of their two factors is zero, the other is drawn from torch's generator.

    Parameters
    ----------
    model
        Any that `LayerStates` reads.
    settings
        Rank, scale, dropout, and names of the layers (the last part of a module's name).

    Raises
    ------
    UserError
        peft is not installed, or the model has none of the layers.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise UserError(
            "`lora` needs peft, which is not installed; pip install 'adaptive-inference[lora]', or remove `lora`"
        ) from error
    linear = {name.rpartition(".")[2] for name, item in model.named_modules() if isinstance(item, nn.Linear)}
    targets = sorted(linear & set(settings.targets))
    if not targets:
        raise UserError(
            f"lora.targets {settings.targets} name no linear layer of the model; it has {', '.join(sorted(linear))}"
        )
    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.scale, lora_dropout=settings.dropout, target_modules=targets
    )
    return get_peft_model(model, config)


def merge(adapted: PeftModel) -> PreTrainedModel:
    """Return the stock model with its adapters added into its weights, all of which can be trained again."""
    model = adapted.merge_and_unload()
    for item in model.parameters():
        item.requires_grad_(True)
    return model
