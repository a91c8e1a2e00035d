"""Keys of the tables, how they are shown, and the one order in which they stand everywhere."""

from __future__ import annotations

import re
from typing import Any

from adaptive_inference.calibration.operating_point import static_layers

#: Method key -> name and colour in figures and readable tables, in table order. An unknown key stands last, under its own
#: name. Colours of Okabe and Ito, then darker and duller ones of Tol's muted set (both for colour-blind readers; no palette
#: keeps so many apart, so that lines have markers too); empty: a spare one.
METHODS = {
    "full": ("Full model", "#000000"),
    "static": ("First K layers", "#7f7f7f"),
    "early_exit": ("Early exit", "#0072B2"),
    "sweet": ("SWEET", "#D55E00"),
    "multi_model": ("Multi-Model", "#009E73"),
    "learning_to_exit": ("Learning to exit", "#CC79A7"),
    "pabee": ("PABEE", "#E69F00"),
    "elasticbert": ("ElasticBERT", "#332288"),
    "deebert": ("DeeBERT", "#882255"),
    "fastbert": ("FastBERT", "#999933"),
    "berxit": ("BERxiT", "#44AA99"),
    "fastbert_clo_v2": ("FastBERT (CLO-v2)", "#6B6B00"),
    "leebert": ("LeeBERT", "#56B4E9"),
    "leebert_uniform": ("LeeBERT (uniform)", "#117733"),
    "leebert_random": ("LeeBERT (random)", "#DDAA33"),
    "leebert_last": ("LeeBERT (last teaches)", "#CC6677"),
    "leebert_lle": ("LeeBERT (LLE)", "#AA4499"),
    "leebert_slo": ("LeeBERT (SLO)", "#004488"),
    "leebert_blo": ("LeeBERT (BLO)", "#661100"),
    "leebert_clo_v1": ("LeeBERT (CLO-v1)", "#B5651D"),
    "leebert_raw": ("LeeBERT (raw weights)", "#5D3A9B"),
    "pkd": ("BERT-PKD", ""),
    "theseus": ("BERT-of-Theseus", ""),
    "layer_drop": ("LayerDrop", ""),
    "head_pruning": ("Head pruning", ""),
    "adapler": ("AdapLeR", "#1B7837"),
    "adapler_early_exit": ("AdapLeR + early exit", "#B2182B"),
    "static_exit": ("Static-Exiting", ""),
    "calm": ("CALM", ""),
    "free": ("FREE", ""),
    "free_adaptive": ("FREE (adaptive threshold)", ""),
    "free_verify": ("FREE (verify)", ""),
    "static_embedding": ("Static embedding", "#A6A6A6"),
}

#: Rule key -> name, in table order.
RULES = {
    "fixed": "fixed exit",
    "confidence": "confidence",
    "entropy": "entropy",
    "uncertainty": "uncertainty",
    "margin": "margin",
    "patience": "patience",
    "patience_confidence": "patience + confidence",
    "voting": "voting",
    "learning_to_exit": "learned",
    "oracle": "oracle",
}


#: Kind of scores of tokens -> name.
KINDS = {
    "contributions": "Contribution predictors",
    "saliency": "Saliency",
    "integrated_gradients": "Integrated gradients",
    "attention": "Attention",
    "attention_rollout": "Attention rollout",
}

#: Metric of a text task -> name.
TEXT_METRICS = {
    "exact_match": "exact match",
    "bleu": "BLEU",
    "rouge_lsum": "ROUGE-Lsum",
    "squad_f1": "SQuAD F1",
}
#: Known difficulties of a token, easy ones first.
DIFFICULTIES = ("copied", "look-up", "arithmetic")


def text_metric_name(metric: str) -> str:
    """Return how the metric of a text task is shown."""
    return TEXT_METRICS.get(metric, metric)


def difficulty_key(difficulty: str) -> tuple[Any, ...]:
    """Sort key of a token's known difficulty: easy ones first, unknown ones last."""
    known = difficulty in DIFFICULTIES
    return (DIFFICULTIES.index(difficulty) if known else len(DIFFICULTIES), difficulty)


def kind_name(kind: str) -> str:
    """Return how a kind of scores of tokens is shown."""
    return KINDS[kind]


def method_name(method: str) -> str:
    """Return how a method is shown."""
    layers = static_layers(method)
    return f"First {layers} layers" if layers is not None else METHODS.get(method, (method, ""))[0]


def rule_name(rule: str) -> str:
    """Return how an exit rule is shown, options as they are."""
    file, bracket, options = rule.partition("(")
    return RULES[file] + (f" ({options}" if bracket else "") if file in RULES else rule


def method_key(method: str) -> tuple[Any, ...]:
    """Sort key: full, static by depth, then the methods in the order of `METHODS`, then unknown ones by name."""
    layers = static_layers(method)
    names = list(METHODS)
    family = "static" if layers is not None else method
    return (names.index(family) if family in METHODS else len(names), layers or 0, method)


def rule_key(rule: str) -> tuple[Any, ...]:
    """Sort key of a rule: the order of `RULES`, a rule's options by name, then unknown rules by name."""
    names, file = list(RULES), rule.partition("(")[0]
    return (names.index(file) if file in RULES else len(names), rule)


def natural_key(text: str) -> tuple[Any, ...]:
    """Sort key that reads numbers as numbers: ``min_speedup_2`` stands before ``min_speedup_10``."""
    parts = re.split(r"(\d+(?:\.\d+)?)", text)
    return tuple((float(part), "") if index % 2 else (0.0, part) for index, part in enumerate(parts))
