"""What each kind of figure shows, in a sentence, and the order in which a reader is shown them."""

from __future__ import annotations

#: Kind -> one sentence. A figure's name is ``TASK-BACKBONE-KIND``, or ``TASK-BACKBONE-KIND-METHOD`` where there is one for
#: each method.
CAPTIONS = {
    "headline": (
        "Quality against measured speed at batch 1, around the goal: up and to the right is better; the ring marks the "
        "recommended model, the grey line what nothing measured beats."
    ),
    "overview": (
        "The headline beside the wide view: the same methods against fewer layers, fewer FLOPs and measured time."
    ),
    "quality_wallclock": (
        "Quality against measured speed at batch 1, all that was timed; horizontal bars are intervals of the timing."
    ),
    "quality_layers": "Quality against how many times fewer layers run, over all thresholds of one rule per method.",
    "quality_flops": "Quality against how many times fewer FLOPs are spent, over all thresholds of one rule per method.",
    "differences": (
        "How much better or worse each method is than a reference at the same goal, with its 95 % interval; filled: "
        "significant."
    ),
    "rules": "The exit rules of each method against each other; rules that draw the same curve share a line.",
    "rule_matrix": "Quality of every exit rule with every method at one speed-up: is it the rule, or the training?",
    "exits": "Where rows leave, by difficulty of the text where the task knows it.",
    "exit_quality": "Quality of each exit by itself, if every row had to leave there.",
    "patience": "How many layers run, and how well they answer, for each patience.",
    "overthinking": "Rows that an inner exit gets right and the last one wrong, and the reverse.",
    "conflict": "Whether the exits' gradients pull a layer the same way (1), in unrelated ways (0) or against each other.",
    "reliability": "How far confidence can be trusted, exit by exit, before and after temperature scaling.",
    "exit_survivors": "Where rows leave, by the share of their tokens that is left there; removal and early exit together.",
    "weights": "How the learned weights of the losses moved during training.",
    "rationales": (
        "What the predictors say and what each layer keeps, against the words that people marked; other scores beside it, "
        "on the right at as many tokens as the layer keeps."
    ),
    "quality_latency": (
        "Quality of what is written against cost: every threshold by exact decoder FLOPs, the chosen ones by the clock, "
        "texts that end by themselves and texts of a fixed length; right of the grey line is faster than plain decoding."
    ),
    "difficulty": "The block that tokens came from, by how hard they are to find, at one threshold of each method.",
    "confidences": (
        "How confident the shallow model was where all blocks agree with it and where not, with the fitted densities and "
        "the threshold: the further apart, the more can leave early without harm."
    ),
    "threshold": "The threshold in force, text by text, where it is estimated as texts are written.",
}
#: The order in which a reader is shown them.
ORDER: tuple[str, ...] = tuple(CAPTIONS)
