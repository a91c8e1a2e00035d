"""What early-exit decoding writes and what that costs: several ways to answer the same requests, run one by one.

A threshold changes later states, so each threshold of a grid is a way of its own and is really run. The full model is one
too: plain ``model.generate`` of the same weights. Costs are those of the run itself: a decoding that observes what agreed
pays for looking, so take costs from one that does not. Wall-clock is measured apart (`evaluation.request_latency`).

Shapes: N requests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from adaptive_inference.decoding.trace import Trace
from adaptive_inference.errors import UserError
from adaptive_inference.generation.answers import Answering, Request
from adaptive_inference.generation.cost import DecoderCost, block_calls, blocks_run, published_blocks
from adaptive_inference.generation.journal import Journal

#: What a trace counts.
TRACED = (
    "head_calls",
    "head_rows",
    "syncs",
    "left_waiting",
    "taken_back",
    "void_steps",
    "tests",
    "host_reads",
)
#: Counts that are summed over requests.
COUNTS = (
    "tokens_written",
    "blocks",
    "block_calls",
    "published_blocks",
    "decoder_flops",
    "encoder_flops",
    *TRACED,
)

Line = Mapping[str, Any]


def answer_all(
    ways: Sequence[Answering],
    requests: Sequence[Request],
    max_new_tokens: int,
    cost: DecoderCost,
    journal: Journal,
) -> None:
    """Let every way answer every request, and write what it did to a journal, request by request.

    What the journal has is not run again; but a way with an adaptive threshold, which learns from one request to the next,
    goes through all of them anew and knows nothing at the first, whatever it answered before.

    Parameters
    ----------
    ways
        Of different names and one model.
    requests
        One row each, on the model's device.
    max_new_tokens
        Tokens of an answer at most.
    cost
        Of that model.
    journal
        Gets one line per way and request.

    Raises
    ------
    UserError
        Two ways have one name, or a way refuses the model or a request.
    """
    _check_names(ways)
    finished = {(line["way"], line["request"]) for line in journal.lines}
    sources = cost.encoder([request["input_ids"].shape[1] for request in requests])
    for way in ways:
        missing = [number for number in range(len(requests)) if (way.name, number) not in finished]
        learns = way.decoding is not None and way.decoding.adaptive is not None
        if learns and missing:
            way.decoding.adaptive.restart()
        for number in range(len(requests)) if learns and missing else missing:
            line = _answer(way, requests[number], max_new_tokens, cost)
            if number in missing:
                line |= {"way": way.name, "request": number, "encoder_flops": int(sources[number])}
                journal.add(line)


def agreement(own: Sequence[int], full: Sequence[int]) -> tuple[int, int]:
    """Return at how many places two texts have the same token, and how many places the longer one has."""
    return sum(a == b for a, b in zip(own, full, strict=False)), max(len(own), len(full))


def summarise_answers(
    lines: Sequence[Line],
    full: str,
    text: Callable[[Sequence[int]], str],
    quality: Callable[[Sequence[str]], Mapping[str, float]],
) -> list[dict[str, Any]]:
    """Return one row per way: quality, agreement with the full model, and cost.

    Parameters
    ----------
    lines
        Of a journal that `answer_all` finished.
    full
        The way that is the full model.
    text
        From tokens to what is scored.
    quality
        From the texts of all N requests, in order, to figures by metric.

    Returns
    -------
    list of dict
        In the order of the ways. Sums over requests of all `COUNTS`, and

        ``quality``
            By metric.
        ``token_agreement``
            Share of places at which way and full model have the same token; a text counts as many places as the longer
            of the two has, so whatever follows a word left out disagrees.
        ``sequence_agreement``
            Share of texts that are the full model's, token for token.
        ``agreed_where_seen``, ``seen``
            Share of tokens that left early and are also what all blocks would have written at their place, of those at
            which all blocks looked; None where they looked at none.
        ``blocks_per_token``, ``block_calls_per_token``, ``published_blocks_per_token``
            See `cost.blocks_run`, `cost.block_calls` and `cost.published_blocks`.
        ``flops_speedup``, ``flops_speedup_per_token``, ``flops_speedup_with_encoder``
            How many times fewer FLOPs than the full model's: the decoder's of all requests, the same for each token written
            (texts differ in length), and all of the model's.
        ``depths``
            Tokens by the block that they came from.

    Raises
    ------
    UserError
        A way has not answered all requests, or ``full`` is none of the ways.
    """
    by_way: dict[str, dict[int, Line]] = {}
    for line in lines:
        by_way.setdefault(line["way"], {})[line["request"]] = line
    if full not in by_way:
        raise UserError(
            f"no answers of the full model {full!r}; there are those of {', '.join(by_way) or 'nobody'}"
        )
    base = by_way[full]
    rows = []
    for way, own in by_way.items():
        if own.keys() != base.keys():
            raise UserError(
                f"{way!r} has answered {len(own)} requests and {full!r} {len(base)}; run what is missing"
            )
        rows.append({"way": way} | _summary([own[n] for n in sorted(own)], [base[n] for n in sorted(own)]))
        rows[-1]["quality"] = dict(quality([text(own[n]["tokens"]) for n in sorted(own)]))
    return rows


def _answer(way: Answering, request: Request, max_new_tokens: int, cost: DecoderCost) -> dict[str, Any]:
    columns, tokens = request["input_ids"].shape[1], way(request, max_new_tokens)
    prompt, decoding = way.prompt(columns), way.decoding
    trace = cost.plain(prompt, len(tokens)) if decoding is None else decoding.trace
    classifier = None if decoding is None else decoding.classifier
    exit_layer = (decoding.policy.exit_layer or 0) if decoding is not None else 0
    return {
        "tokens": tokens,
        "tokens_written": trace.tokens,
        "blocks": blocks_run(trace, cost.num_blocks, prompt),
        "block_calls": block_calls(trace),
        "published_blocks": published_blocks(trace, exit_layer),
        "decoder_flops": cost.decoder(trace, columns if cost.encoder_decoder else 0, classifier),
    } | _of_trace(trace)


def _of_trace(trace: Trace) -> dict[str, Any]:
    (row,) = trace.rows
    return {"depth": row.depth, "confidence": row.confidence, "agreed": row.agreed} | {
        name: getattr(trace, name) for name in ("threshold", *TRACED)
    }


def _summary(own: Sequence[Line], full: Sequence[Line]) -> dict[str, Any]:
    sums, base = ({name: sum(line[name] for line in lines) for name in COUNTS} for lines in (own, full))
    pairs = [(mine["tokens"], its["tokens"]) for mine, its in zip(own, full, strict=True)]
    same, places = (sum(column) for column in zip(*(agreement(*pair) for pair in pairs), strict=True))
    seen = [agreed for line in own for agreed in line["agreed"] if agreed is not None]
    tokens, with_encoder = sums["tokens_written"], ("decoder_flops", "encoder_flops")
    return sums | {
        "requests": len(own),
        "token_agreement": same / places,
        "sequence_agreement": sum(mine == its for mine, its in pairs) / len(pairs),
        "seen": len(seen),
        "agreed_where_seen": sum(seen) / len(seen) if seen else None,
        "blocks_per_token": sums["blocks"] / tokens,
        "block_calls_per_token": sums["block_calls"] / tokens,
        "published_blocks_per_token": sums["published_blocks"] / tokens,
        "flops_speedup": base["decoder_flops"] / sums["decoder_flops"],
        "flops_speedup_per_token": (base["decoder_flops"] / base["tokens_written"])
        / (sums["decoder_flops"] / tokens),
        "flops_speedup_with_encoder": sum(base[name] for name in with_encoder)
        / sum(sums[name] for name in with_encoder),
        "depths": dict(sorted(Counter(depth for line in own for depth in line["depth"]).items())),
    }


def _check_names(ways: Sequence[Answering]) -> None:
    names = [way.name for way in ways]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"two ways to answer are both named {twice[0]!r}; give each a name of its own")
