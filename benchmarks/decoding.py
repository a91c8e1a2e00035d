r"""Measure what early exit in decoding saves on the clock at batch 1, and what asking costs where nothing exits.

T5 and Llama shapes with random weights write a fixed number of tokens; ratios are to plain ``generate`` on its own growing
cache. L blocks, exit after s, h the cost of final norm and head in blocks, measured.

Ratios are times, so a speed-up asked for is the inverse of the limit of a row:

* `full`: our loop with every block; `keep_never` and `verify_never`: threshold 0.999999, the test computed at every token.
  Asked: at least 0.95 (L + h) / (L + 2h) of the speed of ``generate``.
* `keep_R`: FREE, where a scripted pattern sends a share R of the tokens deep; the confidence is computed, then replaced.
  Waiting tokens that the deep blocks catch up with are in the time. Asked: a speed-up of at least
  0.8 (L + h) / (s + h + R (L - s + h)). `calm_R`: CALM with the same exits; it pays for a test after each block from s on.

Beside them counts of one run, where the blocks above write nothing into the stream and so always agree: reads from the
device per token (asked: at most one), head calls (one where a step exits, two where it goes deep), softmaxes over the
vocabulary (none). The last line is one JSON object.

    python benchmarks/decoding.py
    python benchmarks/decoding.py --families llama --blocks 12 --shares 0.25 --rounds 3
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import cycle
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from paired import CLOCKS, Group, Pair, Work, parser, run_alone
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, T5Config, T5ForConditionalGeneration

from adaptive_inference.decoders.families import adapter_for
from adaptive_inference.decoding import DecodingPolicy, EarlyExitDecoding, layerwise, shallow_deep
from adaptive_inference.decoding.confidence import softmax_gap
from adaptive_inference.decoding.trace import Trace

NEVER = 0.999999
FAMILIES = ("t5", "llama")


def groups(extent: str) -> Iterator[Group]:
    """Yield all that `make bench` measures of this."""
    if extent == "quick":
        yield from (group(family, 4, 32, 61, 8, [0.25]) for family in FAMILIES)
        return
    for family in FAMILIES:
        for blocks in (12, 24) if extent == "full" else (12,):
            yield group(family, blocks, 512, 8000, 128, [0.1, 0.25, 0.5])


def group(
    family: str,
    blocks: int,
    width: int,
    vocabulary: int,
    new_tokens: int,
    shares: Sequence[float],
    prompt: int = 16,
    clock: str = "wall",
    threads: int = 1,
) -> Group:
    """Return the ways of one shape."""
    shape = f"{family}, {blocks} blocks x {width}, {new_tokens} tokens written"
    return Group(
        shape, threads, partial(make, family, blocks, width, vocabulary, new_tokens, shares, prompt, clock)
    )


# ---- models and what they write -------------------------------------------------------------------------------------


def make_model(family: str, blocks: int, width: int, vocabulary: int) -> PreTrainedModel:
    """Return a decoder of random weights that never ends a text by itself."""
    torch.manual_seed(0)
    heads = width // 64 if width % 64 == 0 else 4
    if family == "t5":
        model = T5ForConditionalGeneration(
            T5Config(
                d_model=width, d_kv=width // heads, d_ff=4 * width, num_heads=heads, vocab_size=vocabulary,
                num_layers=2, num_decoder_layers=blocks, decoder_start_token_id=0, eos_token_id=None,
            )
        )  # fmt: skip
    else:
        model = LlamaForCausalLM(
            LlamaConfig(
                hidden_size=width, intermediate_size=11 * width // 4, num_attention_heads=heads,
                vocab_size=vocabulary, num_hidden_layers=blocks, eos_token_id=None, pad_token_id=0,
            )
        )  # fmt: skip
    model.generation_config.eos_token_id = None
    return model.eval()


#: What a block writes into the stream with, as the families call it.
OUTPUTS = (".o.weight", ".wo.weight", "o_proj.weight", "down_proj.weight")


def let_all_agree(model: PreTrainedModel, exit_layer: int) -> None:
    """Let blocks above the exit write nothing into the stream, so that the exit says what all blocks say."""
    with torch.no_grad():
        for block in adapter_for(model).blocks[exit_layer:]:
            for name, weight in block.named_parameters():
                if name.endswith(OUTPUTS):
                    weight.zero_()


class Writer:
    """A model and one batch of prompts that it continues by a number of tokens."""

    def __init__(self, model: PreTrainedModel, rows: int, prompt: int, new_tokens: int) -> None:
        self.model, self.new_tokens = model, new_tokens
        self.decoder = adapter_for(model)
        draw = torch.Generator().manual_seed(1)
        ids = torch.randint(3, self.decoder.vocabulary, (rows, prompt), generator=draw)
        self.inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def plain(self, **options: Any) -> Tensor:
        """Write by plain ``generate``."""
        # transformers' own cache of a T5 counts the encoder's layers
        cache = {"past_key_values": self.decoder.plain_cache()} if self.decoder.encoder_decoder else {}
        return self.model.generate(**self.inputs, **cache, max_new_tokens=self.new_tokens, **options)

    def ours(
        self, policy: DecodingPolicy, watch: Any = None, defer: bool | None = None
    ) -> tuple[Tensor, Trace]:
        """Write by a policy; ``watch`` is entered around our own loop alone."""
        decoding = EarlyExitDecoding(policy, defer=defer)

        def loop(*args: Any, **options: Any) -> Tensor:
            with watch or nullcontext():
                return decoding(*args, **options)

        ids = self.model.generate(**self.inputs, max_new_tokens=self.new_tokens, custom_generate=loop)
        assert decoding.trace is not None
        return ids, decoding.trace


@contextmanager
def scripted(exits: list[bool], tests_of_a_deep_token: int = 1) -> Iterator[None]:
    """Let tokens leave by a script, at threshold 0.5: the confidence is computed, and then written over."""
    values = cycle([v for left in exits for v in ([1.0] if left else [0.0] * tests_of_a_deep_token)])

    def confidence(logits_RV: Tensor) -> Tensor:
        return softmax_gap(logits_RV).fill_(next(values))

    with (
        patch.object(shallow_deep, "softmax_gap", confidence),
        patch.object(layerwise, "softmax_gap", confidence),
    ):
        yield


def exits_of(share: float, tokens: int) -> list[bool]:
    """Return which tokens leave early, when a share of them, evenly spread, does not."""
    return [int((token + 1) * share) == int(token * share) for token in range(tokens)]


# ---- time -----------------------------------------------------------------------------------------------------------


def head_in_blocks(writer: Writer, clock: str, rounds: int = 40) -> float:
    """Return h: what final norm and head cost, against one block, on one new token half way through the text."""
    decoder, now = writer.decoder, CLOCKS[clock]
    before = writer.inputs["input_ids"].shape[1] + writer.new_tokens // 2
    source = {}
    with torch.inference_mode():
        if decoder.encoder_decoder:
            source["encoder_hidden"] = writer.model.get_encoder()(**writer.inputs)[0]
        cache = decoder.start(1, capacity=before + 1, **source)
        decoder.run(torch.randn(1, before, decoder.width), 1, decoder.num_blocks, cache)
        token_11D, spent = torch.randn(1, 1, decoder.width), []
        for _ in range(rounds):
            start = now()
            hidden_11D = decoder.run(token_11D, 1, decoder.num_blocks, cache)
            middle = now()
            decoder.logits(hidden_11D)
            spent.append((middle - start, now() - middle))
            cache.crop(None, before)
    blocks, head = np.median(np.array(spent), axis=0)
    return float(head / (blocks / decoder.num_blocks))


# ---- counts ---------------------------------------------------------------------------------------------------------


class Counter(TorchDispatchMode):
    """Counts reads of single numbers by the host, and softmaxes over a whole vocabulary."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary, self.scalars, self.softmaxes = vocabulary, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.scalars += name == "_local_scalar_dense"
        self.softmaxes += name in ("_softmax", "_log_softmax") and args[0].shape[-1] == self.vocabulary
        return func(*args, **(kwargs or {}))


def counts(writer: Writer, policy: DecodingPolicy, exits: list[bool]) -> dict[str, float]:
    """Return reads per token, head calls of a step that exits and of one that goes deep, softmaxes."""
    calls, counter = [], Counter(writer.decoder.vocabulary)
    hook = writer.decoder.head.register_forward_hook(lambda *_: calls.append(1))
    try:
        with scripted(exits):
            # defer: as on an accelerator; by default a CPU, with nothing to wait for, reads verify's answers at once
            _, trace = writer.ours(policy, watch=counter, defer=True)
    finally:
        hook.remove()
    prompts = (
        0 if writer.decoder.encoder_decoder else 1
    )  # tokens that the prompt's own pass gives, with one head call
    depth = trace.rows[0].depth
    left = sum(blocks < writer.decoder.num_blocks for blocks in depth)
    deep = len(depth) - left - prompts
    return {
        "tokens": len(depth),
        "exited": left,
        "host_reads_per_token": (trace.host_reads + counter.scalars) / len(depth),
        "full_softmaxes": counter.softmaxes,
        "head_calls": len(calls),
        "head_calls_allowed": prompts + left + 2 * deep,  # one where a step exits, two where it goes deep
    }


# ---- one shape ------------------------------------------------------------------------------------------------------


def make(
    family: str,
    blocks: int,
    width: int,
    vocabulary: int,
    new_tokens: int,
    shares: Sequence[float],
    prompt: int,
    clock: str,
) -> Work:
    """Return the ways of one shape, and the counts of one run."""
    writer = Writer(make_model(family, blocks, width, vocabulary), 1, prompt, new_tokens)
    shallow = max(1, blocks // 4)
    at_exit = {"exit_layer": shallow, "max_pending": None, "threshold": 0.5}

    def keep(exits: list[bool]) -> None:
        with scripted(exits):
            writer.ours(DecodingPolicy("keep", **at_exit))

    def calm(exits: list[bool]) -> None:
        with scripted(exits, blocks - shallow):
            writer.ours(DecodingPolicy("calm", min_layer=shallow, threshold=0.5))

    ways: dict[str, Callable[[], Any]] = {
        "plain": writer.plain,
        "full": lambda: writer.ours(DecodingPolicy("full")),
        "keep_never": lambda: writer.ours(DecodingPolicy("keep", exit_layer=shallow, threshold=NEVER)),
        "verify_never": lambda: writer.ours(DecodingPolicy("verify", exit_layer=shallow, threshold=NEVER)),
    }
    for share in shares:
        exits = exits_of(share, new_tokens)
        ways[f"keep_{share:g}"] = partial(keep, exits)
        ways[f"calm_{share:g}"] = partial(calm, exits)
    h = head_in_blocks(writer, clock)
    asked = dict.fromkeys(("keep_never", "verify_never"), 0.95 * (blocks + h) / (blocks + 2 * h))
    for share in shares:
        asked[f"keep_{share:g}"] = 0.8 * (blocks + h) / (shallow + h + share * (blocks - shallow + h))
    pairs = [
        Pair(name, "plain", 1 / asked[name] if name in asked else None) for name in ways if name != "plain"
    ]
    # counted on a model of its own, whose blocks above the exit agree: what is timed must not be changed
    agreeing = Writer(make_model(family, blocks, width, vocabulary), 1, prompt, new_tokens)
    let_all_agree(agreeing.model, shallow)
    exits = exits_of(0.25, new_tokens)
    facts = {
        f"counts_{kind}": counts(agreeing, DecodingPolicy(kind, **at_exit), exits)
        for kind in ("keep", "verify")
    }
    return Work(ways, pairs, {"exit_layer": shallow, "head_in_blocks": h, **facts})


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--families", nargs="+", default=list(FAMILIES), choices=FAMILIES)
    options.add_argument(
        "--blocks", type=int, nargs="+", default=[12, 24], help="a quarter of them is the exit"
    )
    options.add_argument("--width", type=int, default=512, help="64 to a head where it divides")
    options.add_argument("--vocabulary", type=int, default=8000)
    options.add_argument("--prompt", type=int, default=16, help="tokens of the prompt, or of the source")
    options.add_argument("--new-tokens", type=int, default=128)
    options.add_argument("--shares", type=float, nargs="*", default=[0.1, 0.25, 0.5], help="R")
    options.set_defaults(rounds=5)
    args = options.parse_args()
    sizes = args.width, args.vocabulary, args.new_tokens, args.shares, args.prompt, args.clock, args.threads
    run_alone(
        __file__, (group(family, blocks, *sizes) for family in args.families for blocks in args.blocks), args
    )


if __name__ == "__main__":
    main()
