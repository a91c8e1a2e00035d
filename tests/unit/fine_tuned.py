"""A classifier of transformers with a folder of its own, as if somebody had fine-tuned it."""

import hashlib
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from adaptive_inference.backbones._tiny import LAYERS, tiny_config, tiny_tokenizer
from adaptive_inference.backbones.load import adapter
from adaptive_inference.tasks.encode import collate, encode

CLASSES = ("bad", "fair", "good")


def fine_tuned(family, folder: Path, names=CLASSES, **changes) -> tuple[PreTrainedModel, dict]:
    """Save a tiny stock classifier and its tokenizer; return it, and the section of ``backbones`` that keeps its head."""
    torch.manual_seed(7)
    config = tiny_config(family, id2label=dict(enumerate(names)), **changes)
    stock = AutoModelForSequenceClassification.from_config(config).eval()
    stock.get_submodule(adapter(family).stock_head[1]).bias.data.normal_()  # made as zeros
    stock.save_pretrained(folder)
    tiny_tokenizer(family).save_pretrained(folder)
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    return stock, {"weights": str(folder), "sha256": digest, "head": "checkpoint", "exits": [LAYERS]}


def difference(stock, model, rows, order=slice(None)) -> float:
    """Return the largest distance between the stock logits and those of a model's last exit, on rows as a padded batch."""
    batch = collate(encode(rows, model.tokenizer, 32), model.tokenizer.pad_token_id)
    given = {name: item for name, item in batch.items() if name in model.tokenizer.model_input_names}
    with torch.no_grad():
        theirs, ours = stock(**given).logits[:, order], model.eval()(**given).logits[:, -1]
    assert (theirs[0] - theirs[1]).abs().max() > 1e-3, "rows must differ for the comparison to mean anything"
    assert theirs.shape == ours.shape
    return (theirs - ours).abs().max().item()
