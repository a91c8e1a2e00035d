"""The claims: what each paper says and where, and how it is tested here.

Numbers are the papers', as `reporting/published/*.yaml` has them. A claim of FREE or CALM is added here when its
method is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from adaptive_pipeline.reporting.claims.trials import (
    AgainstFull,
    Exits,
    FalsePositives,
    Gradients,
    Points,
    Speed,
)
from adaptive_pipeline.reporting.claims.verdict import Side

#: SWEET's paper names no speeds: fast is as fast as a run goes, slow is about 1.5 times.
FAST, SLOW = Speed(100, 1.8, math.inf), Speed(1.5, 1, 1.8)
#: Where Table 1 of LeeBERT compares, and the first table of PABEE; and half as much again, or less.
LEEBERT, PABEE = Speed(1.95, 1.3, 2.9), Speed(1.57, 1.05, 2.35)


@dataclass(frozen=True)
class Claim:
    """One claim of a paper.

    Attributes
    ----------
    key
        A letter of the paper and a number.
    title
        The claim in a sentence.
    says
        What the paper says, with its numbers.
    source
        Where.
    trial
        How it is tested.
    side
        Where the paper puts the first method of the trial (its figure, for gradients: against 0).
    note
        What differs between the paper's setting and ours, beyond encoder, data and training.
    """

    key: str
    title: str
    says: str
    source: str
    trial: Exits | Points | AgainstFull | Gradients | FalsePositives
    side: Side = "above"
    note: str = ""


@dataclass(frozen=True)
class Paper:
    """A paper and its claims."""

    name: str
    citation: str
    page: str  #: of `docs/`, about its method
    claims: tuple[Claim, ...]


def _confidence(method: str, other: str, speed: Speed) -> Points:
    return Points(method, "confidence", other, "confidence", speed)


def _patience(method: str, other: str) -> Points:
    return Points(method, "patience", other, "patience", LEEBERT)


_ABSTRACT = "abstract, as public indexes quote it; the body was not at hand"
_TABLE_1 = "Table 1, GLUE dev, ALBERT-base, mean of 5 seeds"
_TABLE_4 = "Table 4, GLUE dev, ALBERT-base; its cells of MRPC alone can be read for certain"

_TOKENS = (
    "How the paper chooses how many tokens saliency and attention name is not known; here they name as many as each layer "
    "keeps, and the figure is the mean over the layers."
)

PAPERS = (
    Paper(
        "SWEET",
        "Rotem, Hassid, Mamou, Schwartz: Finding the SWEET Spot, ACL 2023",
        "methods/sweet.md",
        (
            Claim(
                "S1",
                "SWEET's exits are better than early exit's.",
                "Each exit answering alone, SWEET's are 1.1 better than early exit's of the same size, on average.",
                _ABSTRACT,
                Exits("sweet", "early_exit"),
            ),
            Claim(
                "S2",
                "SWEET's first exit is better than early exit's.",
                "The first exits gain the most: no later loss disturbs their layers.",
                "follows from the method and from S4; no number was found",
                Exits("sweet", "early_exit", first=True),
            ),
            Claim(
                "S3",
                "Multi-Model's members are better than early exit's exits.",
                "Each answering alone, separate models are 2.3 better than early exit's exits of the same size, "
                "on average.",
                _ABSTRACT,
                Exits("multi_model", "early_exit"),
            ),
            Claim(
                "S4",
                "At fast speeds SWEET beats early exit.",
                "SWEET is the best of the three methods at fast speeds; no number was found.",
                _ABSTRACT,
                _confidence("sweet", "early_exit", FAST),
            ),
            Claim(
                "S5",
                "At fast speeds SWEET beats Multi-Model.",
                "As S4.",
                _ABSTRACT,
                _confidence("sweet", "multi_model", FAST),
            ),
            Claim(
                "S6",
                "At slow speeds SWEET is as good as early exit.",
                "At slow speeds the two are comparable; no number was found.",
                _ABSTRACT,
                _confidence("sweet", "early_exit", SLOW),
                "level",
            ),
            Claim(
                "S7",
                "At slow speeds early exit beats Multi-Model.",
                "Early exit has the better trade-off in spite of weaker exits, since Multi-Model runs every "
                "member anew.",
                _ABSTRACT,
                _confidence("early_exit", "multi_model", SLOW),
            ),
            Claim(
                "S8",
                "The exits' gradients conflict.",
                "Exits that share weights send conflicting gradients into them, and that is why they are worse "
                "than separate models.",
                _ABSTRACT,
                Gradients("early_exit"),
                "below",
                "We measure when training has ended, on 64 training rows: the cosine of two exits' gradients in "
                "a layer that "
                "both use, 1 where a step for one helps the other, below 0 where it harms. That nothing "
                "conflicts at the end "
                "does not show that nothing did on the way. Whether it helps to cut the gradients is S1.",
            ),
        ),
    ),
    Paper(
        "PABEE",
        "Zhou et al.: BERT Loses Patience, NeurIPS 2020",
        "methods/pabee.md",
        (
            Claim(
                "P1",
                "PABEE is better than the full model.",
                "On ALBERT-base PABEE beats the fine-tuned model on 7 of 8 GLUE tasks by 0.1 to 2.3 points at "
                "1.57 times the "
                "speed; on BERT-base it loses 0.1 to 0.9.",
                "the repository's README, GLUE dev",
                AgainstFull("pabee", "patience", PABEE),
                note="Its authors pick the patience on the reported rows; we pick it on calibration rows. Our "
                "encoders share no "
                "weights between layers, so they are closer to BERT.",
            ),
            Claim(
                "P2",
                "Patience is a better rule than confidence.",
                "PABEE, which leaves by patience, is 0.8 to 2.4 points above Shallow-Deep, which leaves by "
                "confidence, at 1.91 "
                "and 1.95 times the speed.",
                f"LeeBERT's {_TABLE_1}",
                Points("pabee", "patience", "pabee", "confidence", LEEBERT),
                note="The two of the table are trained differently too; here one model leaves by either rule.",
            ),
        ),
    ),
    Paper(
        "LeeBERT",
        "Zhu: LeeBERT, ACL 2021",
        "methods/leebert.md",
        (
            Claim(
                "L1",
                "LeeBERT is better than PABEE.",
                "LeeBERT is 1.0 to 2.4 points above PABEE at about the same speed.",
                _TABLE_1,
                _patience("leebert", "pabee"),
            ),
            Claim(
                "L2",
                "Learning from all exits (LAE) is better than from later exits (LLE).",
                "LAE is 0.1 to 0.5 points above LLE.",
                _TABLE_1,
                _patience("leebert", "leebert_lle"),
            ),
            Claim(
                "L3",
                "Learning from all exits is better than from the last one.",
                "LAE is 0.4 to 0.7 points above FastBERT with learned weights, where the last exit alone teaches.",
                _TABLE_1,
                _patience("leebert", "leebert_last"),
            ),
            Claim(
                "L4",
                "Learned loss weights (CLO) are better than uniform ones.",
                "CLO-v2 is 0.5 to 0.9 points above uniform weights.",
                _TABLE_1,
                _patience("leebert", "leebert_uniform"),
                note="CLO's network sees half of the rows in an epoch; ours gets twice the epochs, so both take "
                "as many steps.",
            ),
            Claim(
                "L5",
                "Learned loss weights are better than random ones.",
                "CLO-v2 is 0.5 to 1.0 points above random weights.",
                _TABLE_1,
                _patience("leebert", "leebert_random"),
            ),
            Claim(
                "L6",
                "CLO is better than learning weights and network on the same rows (SLO).",
                "CLO-v2 is 0.4 to 0.9 points above SLO.",
                _TABLE_1,
                _patience("leebert", "leebert_slo"),
            ),
            Claim(
                "L7",
                "CLO is better than bi-level optimisation (BLO).",
                "CLO-v2 is 0.2 to 0.5 points above BLO.",
                _TABLE_1,
                _patience("leebert", "leebert_blo"),
            ),
            Claim(
                "L8",
                "CLO-v1 and CLO-v2 are equally good.",
                "CLO-v1 is 0 to 0.2 points above CLO-v2, and takes twice the time.",
                _TABLE_1,
                _patience("leebert_clo_v1", "leebert"),
                "level",
            ),
            Claim(
                "L9",
                "LeeBERT's training helps where rows leave by entropy too.",
                "Both by entropy, LeeBERT has 88.6 on MRPC and DeeBERT 87.2.",
                _TABLE_4,
                Points("leebert", "entropy", "deebert", "entropy", LEEBERT),
            ),
            Claim(
                "L10",
                "LeeBERT's training helps where rows leave by confidence too.",
                "Both by confidence, LeeBERT has 88.9 on MRPC and Shallow-Deep 87.1.",
                _TABLE_4,
                Points("leebert", "confidence", "early_exit", "confidence", LEEBERT),
                note="Shallow-Deep is not built here; early exit, which sums the exits' losses too, stands for it.",
            ),
            Claim(
                "L11",
                "Exits that learn from each other are better exits.",
                "Without distillation the shallow exits are far worse; a figure shows it, without numbers.",
                "section 4.6 and Figure 3, MRPC",
                Exits("leebert_uniform", "early_exit"),
                note="Both with uniform weights, so that distillation alone differs.",
            ),
        ),
    ),
    Paper(
        "AdapLeR",
        "Modarressi, Mohebbi, Pilehvar: AdapLeR, ACL 2022",
        "attribution.md",
        (
            Claim(
                "A1",
                "What AdapLeR keeps holds fewer tokens beside the rationale than saliency names.",
                "On ERASER's rationales its false-positive rate is lower than that of gradient-based saliency; no number "
                "was found.",
                _ABSTRACT,
                FalsePositives("adapler", "saliency"),
                "below",
                _TOKENS,
            ),
            Claim(
                "A2",
                "What AdapLeR keeps holds fewer tokens beside the rationale than attention names.",
                "As A1, of attention.",
                _ABSTRACT,
                FalsePositives("adapler", "attention"),
                "below",
                _TOKENS,
            ),
        ),
    ),
)
