"""Tiny configurations of every decoder family: for tests and the smoke preset. Loads no torch by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BLOCKS, WIDTH, HEADS, VOCABULARY, POSITIONS = 4, 32, 4, 61, 64


def tiny_settings(model_type: str) -> dict[str, object]:
    """Return what a tiny decoder of 4 blocks, 32 wide, says otherwise than its family's own defaults.

    Weights spread wider than a family's own start, so that untrained logits differ from token to token.
    """
    if model_type in ("t5", "mt5", "longt5"):
        return {
            "d_model": WIDTH,
            "d_kv": WIDTH // HEADS,
            "d_ff": 2 * WIDTH,
            "num_layers": 2,
            "num_decoder_layers": BLOCKS,
            "num_heads": HEADS,
            "vocab_size": VOCABULARY,
            "relative_attention_num_buckets": 8,
            "relative_attention_max_distance": 16,
            "initializer_factor": 2.0,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "decoder_start_token_id": 0,
        }
    settings: dict[str, object] = {
        "hidden_size": WIDTH,
        "num_hidden_layers": BLOCKS,
        "num_attention_heads": HEADS,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": POSITIONS,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 1,
    }
    if model_type == "gpt2":
        return settings | {"initializer_range": 0.2}
    if model_type == "opt":
        return settings | {"ffn_dim": 2 * WIDTH, "word_embed_proj_dim": WIDTH, "init_std": 0.2}
    settings |= {"num_key_value_heads": HEADS // 2, "intermediate_size": 2 * WIDTH, "initializer_range": 0.2}
    settings |= {"head_dim": WIDTH // HEADS} if model_type == "qwen3" else {}
    return settings | ({"sliding_window": None} if model_type == "mistral" else {})


def tiny_decoder(model_type: str, seed: int = 0, **changes: object) -> PreTrainedModel:
    """Return a tiny random model of a family with its LM head, in evaluation mode; ``changes`` override any key."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    config = AutoConfig.for_model(model_type, **(tiny_settings(model_type) | changes))
    stock = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return stock.from_config(config).eval()
