r"""Count where verified early exit differs from plain greedy writing: in float64 nowhere, in float32 only at ties.

Tiny models of every family, with random weights made so that the shallow model is sometimes sure and sometimes right,
continue random prompts by *verify* at five thresholds. Each text is compared with plain ``generate``'s of the same batch.
The first token that differs is looked up in one plain pass over the text before it: how far apart its two best logits lie.

Asked: no difference in float64; in float32, every first difference at a gap below 1e-4. Exit status 1 where that fails.
The last line is one JSON object.

    python benchmarks/decoding_lossless.py
    python benchmarks/decoding_lossless.py --families llama --prompts 40 --batch-size 4
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from adaptive_inference.decoders._tiny import VOCABULARY, tiny_decoder
from adaptive_inference.decoders.families import adapter_for
from adaptive_inference.decoding import DecodingPolicy, EarlyExitDecoding
from adaptive_pipeline.runs.environment import environment

THRESHOLDS = (0.0, 0.3, 0.6, 0.9, 1.0)
EXIT, PROMPT, PAD, END = 2, 7, 0, 1
TIE = 1e-4
DTYPES = {"float64": torch.float64, "float32": torch.float32}
#: Factor of the final norm at which a family's gaps spread over [0, 1].
SHARPNESS = {"t5": 3.0, "mt5": 0.7, "longt5": 3.0, "llama": 4.0, "gpt2": 4.0, "opt": 3.0}
#: What a block writes into the stream with, as the families call it.
OUTPUTS = (
    ".o.weight", ".wo.weight", "o_proj.weight", "down_proj.weight", "c_proj.weight", "out_proj.weight", "fc2.weight",
)  # fmt: skip


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--families", nargs="+", default=list(SHARPNESS), choices=tuple(SHARPNESS))
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=10, help="rows; every tenth batch goes row by row")
    parser.add_argument("--new-tokens", type=int, default=12)
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=tuple(DTYPES))
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def make_model(family: str, dtype: torch.dtype) -> PreTrainedModel:
    """Return a model whose blocks above the exit change little, so that both models often agree."""
    changes = {"local_radius": 2, "encoder_attention_type": "local"} if family == "longt5" else {}
    model = tiny_decoder(family, **changes).to(dtype)
    scale = {"gpt2": "ln_f.weight", "llama": "model.norm.weight"}.get(
        family, "decoder.final_layer_norm.weight"
    )
    with torch.no_grad():
        for block in adapter_for(model).blocks[EXIT:]:
            for name, weight in block.named_parameters():
                if name.endswith(OUTPUTS):
                    weight.mul_(0.35)
        for name, weight in model.named_parameters():
            if name.endswith(scale):
                weight.mul_(SHARPNESS[family])
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = END, PAD
    return model


def batches(prompts: int, rows: int) -> Iterator[dict[str, Tensor]]:
    """Yield padded batches of prompts of random lengths; every tenth one in rows by themselves, without padding."""
    draw = torch.Generator().manual_seed(0)
    for number, start in enumerate(range(0, prompts, rows)):
        count = min(rows, prompts - start)
        ids = torch.randint(2, VOCABULARY, (count, PROMPT), generator=draw)
        lengths = torch.randint(2, PROMPT + 1, (count, 1), generator=draw)
        mask = (torch.arange(PROMPT) >= PROMPT - lengths).long()
        if number % 10:
            yield {"input_ids": ids * mask, "attention_mask": mask}
            continue
        for row, real in enumerate(mask.bool()):
            yield {"input_ids": ids[row : row + 1, real], "attention_mask": mask[row : row + 1, real]}


def first_difference(found: Tensor, expected: Tensor) -> int | None:
    """Return the first column where two texts differ, padding included; None where there is none."""
    shorter = min(len(found), len(expected))
    columns = (found[:shorter] != expected[:shorter]).nonzero()
    if len(columns):
        return int(columns[0])
    # beyond the shorter batch of texts, a longer one holds more than padding only where it differs
    rest = torch.cat([found[shorter:], expected[shorter:]])
    return shorter if bool((rest != PAD).any()) else None


def gap_of_the_best(model: PreTrainedModel, inputs: dict[str, Tensor], row: int, before: Tensor) -> float:
    """Return how far the two best logits lie apart after some tokens, by one plain pass over one row."""
    one = {name: values[row : row + 1] for name, values in inputs.items()}
    with torch.inference_mode():
        if model.config.is_encoder_decoder:
            logits_V = model(**one, decoder_input_ids=before[None]).logits[0, -1]
        else:
            mask = one["attention_mask"][0].bool()
            real = torch.cat([mask, mask.new_ones(len(before) - len(mask))])
            logits_V = model(input_ids=before[real][None]).logits[0, -1]
    best, second = logits_V.topk(2).values.tolist()
    return best - second


def compare(family: str, dtype: str, args: argparse.Namespace) -> dict[str, Any]:
    """Return what a family gives in one precision."""
    model = make_model(family, DTYPES[dtype])
    decoder = adapter_for(model)
    texts = exits = taken_back = syncs = tokens = 0
    gaps: list[float] = []
    for number, inputs in enumerate(batches(args.prompts, args.batch_size)):
        cache = {"past_key_values": decoder.plain_cache()} if decoder.encoder_decoder else {}
        expected = model.generate(**inputs, **cache, max_new_tokens=args.new_tokens)
        for threshold in THRESHOLDS:
            policy = DecodingPolicy("verify", exit_layer=EXIT, threshold=threshold, together=number % 4 == 3)
            decoding = EarlyExitDecoding(policy, defer=number % 2 == 1)
            found = model.generate(**inputs, max_new_tokens=args.new_tokens, custom_generate=decoding)
            trace = decoding.trace
            assert trace is not None
            tokens, taken_back, syncs = (
                tokens + trace.tokens,
                taken_back + trace.taken_back,
                syncs + trace.syncs,
            )
            exits += sum(depth == EXIT for row in trace.rows for depth in row.depth)
            for row, (ours, plain) in enumerate(zip(found, expected, strict=True)):
                texts += 1
                column = first_difference(ours, plain)
                if column is not None:
                    gaps.append(gap_of_the_best(model, inputs, row, plain[:column]))
    return {
        "family": family,
        "dtype": dtype,
        "texts": texts,
        "tokens": tokens,
        "exited": exits,
        "catch_ups": syncs,
        "taken_back": taken_back,
        "first_differences": len(gaps),
        "gaps": sorted(gaps),
        "holds": not gaps if dtype == "float64" else all(gap < TIE for gap in gaps),
    }


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for family in args.families:
        for dtype in args.dtypes:
            row = compare(family, dtype, args)
            rows.append(row)
            largest = f", largest gap of two best logits {max(row['gaps']):.1e}" if row["gaps"] else ""
            print(
                f"{family:8}{dtype}: {row['texts']} texts, {row['tokens']} tokens, {row['exited']} left early,"
                f" {row['taken_back']} taken back, {row['first_differences']} texts differ{largest}",
                flush=True,
            )
    body = {
        "benchmark": Path(__file__).stem,
        "families": rows,
        "settings": vars(args),
        "environment": environment("cpu"),
    }
    print(json.dumps(body, sort_keys=True))
    if not all(row["holds"] for row in rows):
        sys.exit("verify does not write what plain greedy writes")


if __name__ == "__main__":
    main()
