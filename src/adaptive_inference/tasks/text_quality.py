"""How written texts are scored: exact match, BLEU, ROUGE, and exact match and F1 as SQuAD's official program counts them.

Every value is a fraction (never percent). Each metric scores single texts too, from 0 to 1: calibration bounds a mean over
examples, which corpus BLEU is not. A text that equals a reference scores 1 by itself under every metric, also where a metric
finds no words in it, so that the distance of a text from itself is 0.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from adaptive_inference.errors import UserError, nearest

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

#: The ROUGE measures that are reported, by the names that rouge-score gives them.
ROUGE = {"rouge1": "rouge1", "rouge2": "rouge2", "rouge_lsum": "rougeLsum"}

#: Words that end in a full stop and end no sentence.
_ABBREVIATIONS = frozenset(
    {"e.g", "i.e", "etc", "vs", "cf", "al", "fig", "figs", "eq", "eqs", "sec", "vol", "approx", "dr", "mr", "mrs",
     "ms", "prof", "st", "jr", "sr", "inc", "ltd", "co", "u.s", "u.k"}
)  # fmt: skip
#: Opening quotes and brackets, straight and curly.
_OPENING = "\"'\u201c\u2018(["
_BREAK = re.compile(f"(?<=[.!?…])[\"'\u201d\u2019)\\]]*\\s+(?=[{re.escape(_OPENING)}]*[A-Z0-9À-Þ])")


@dataclass(frozen=True)
class TextScore:
    """What a set of written texts is worth.

    Attributes
    ----------
    quality
        By the metric that was asked for, a fraction.
    parts
        That value under the metric's name, and those of its companions.
    signature
        How it was counted, with the version of the library that did: sacrebleu's own signature, for one.
    """

    quality: float
    parts: dict[str, float]
    signature: str


def score_texts(metric: str, texts: Sequence[str], references: Sequence[Sequence[str]]) -> TextScore:
    """Score a set of texts.

    Parameters
    ----------
    metric
        One of `METRICS`.
    texts
        What was written, N texts.
    references
        Of each, the accepted texts, at least one; the best counts, and BLEU counts them together.

    Returns
    -------
    TextScore
        ``bleu`` is the corpus's; the others are means of `score_each`. ``rouge_lsum`` comes with ``rouge1`` and
        ``rouge2``, ``squad_f1`` with ``squad_em``.

    Raises
    ------
    UserError
        The metric is unknown, there are no texts, or one has no reference.
    """
    _check(metric, texts, references)
    if metric == "bleu":
        return _corpus_bleu(texts, references)
    names = {"rouge_lsum": tuple(ROUGE), "squad_f1": ("squad_f1", "squad_em")}.get(metric, (metric,))
    parts = {name: float(np.mean(_each(name, texts, references))) for name in names}
    return TextScore(parts[metric], parts, _signature(metric))


def score_each(metric: str, texts: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """Score each text by itself.

    Returns
    -------
    array (N,) of float64
        From 0 to 1, and 1 for a text that equals a reference. ``bleu`` is the sentence's: smoothed (``exp``), over the
        orders that it is long enough for.

    Raises
    ------
    UserError
        As `score_texts`.
    """
    _check(metric, texts, references)
    return _each(metric, texts, references)


def sentences(text: str) -> list[str]:
    """Split a text into sentences, for ROUGE-Lsum.

    A line break ends a sentence. So does ``.``, ``!``, ``?`` or an ellipsis, with closing quotes or brackets after it,
    before white space and then a capital or a digit; not after a single letter ("J. Smith") or a common abbreviation
    ("et al."). The rule needs no data file; it differs from punkt, which FREE's scripts use, at rarer abbreviations.
    """
    found = []
    for line in text.splitlines():
        start = 0
        for gap in _BREAK.finditer(line):
            words = line[start : gap.start()].split()
            word = words[-1].rstrip(".").lstrip(_OPENING) if words else ""
            stopped = line[gap.start() - 1] == "."
            if stopped and (word.lower() in _ABBREVIATIONS or (len(word) == 1 and word.isalpha())):
                continue
            found.append(line[start : gap.end()].strip())
            start = gap.end()
        found.append(line[start:].strip())
    return [sentence for sentence in found if sentence]


def squad_words(text: str) -> list[str]:
    """Return the words by which SQuAD compares answers: lower case, no ASCII punctuation, no articles."""
    bare = "".join(character for character in text.lower() if character not in set(string.punctuation))
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


def _check(metric: str, texts: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if metric not in METRICS:
        raise UserError(
            f"no metric {metric!r}; allowed: {', '.join(METRICS)}{nearest(metric, list(METRICS))}"
        )
    if not texts:
        raise UserError(f"cannot score {metric} of no texts; give at least one")
    if len(texts) != len(references):
        raise UserError(
            f"{len(texts)} texts have {len(references)} lists of references; give one list for each"
        )
    bare = [row for row, accepted in enumerate(references) if isinstance(accepted, str) or not accepted]
    if bare:
        raise UserError(f"text {bare[0]} has no list of references; give at least one reference in a list")


def _each(metric: str, texts: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    return np.array(
        [
            1.0 if text in accepted else min(1.0, max(0.0, _ONE[metric](text, accepted)))
            for text, accepted in zip(texts, references, strict=True)
        ]
    )


def _exact(text: str, accepted: Sequence[str]) -> float:
    return float(text.split() in [reference.split() for reference in accepted])


def _squad_em(text: str, accepted: Sequence[str]) -> float:
    return float(squad_words(text) in [squad_words(reference) for reference in accepted])


def _squad_f1(text: str, accepted: Sequence[str]) -> float:
    return max(_overlap(squad_words(text), squad_words(reference)) for reference in accepted)


def _overlap(words: list[str], right: list[str]) -> float:
    """F1 of two bags of words; where one is empty, whether both are (the rule of SQuAD 2.0's program)."""
    if not words or not right:
        return float(words == right)
    common = sum((Counter(words) & Counter(right)).values())
    return 2 * common / (len(words) + len(right))


def _rouge(name: str) -> Callable[[str, Sequence[str]], float]:
    def score(text: str, accepted: Sequence[str]) -> float:
        rows = ["\n".join(sentences(one)) for one in (text, *accepted)]
        return float(_rouge_scorer(ROUGE[name]).score_multi(rows[1:], rows[0])[ROUGE[name]].fmeasure)

    return score


@cache
def _rouge_scorer(name: str) -> RougeScorer:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([name], use_stemmer=True)


def _sentence_bleu(text: str, accepted: Sequence[str]) -> float:
    import sacrebleu

    return sacrebleu.sentence_bleu(text, list(accepted)).score / 100


def _corpus_bleu(texts: Sequence[str], references: Sequence[Sequence[str]]) -> TextScore:
    from sacrebleu.metrics import BLEU

    # sacrebleu takes the first references of all texts, then the second ones, None where a text has no more
    most = max(len(accepted) for accepted in references)
    columns = [[accepted[k] if k < len(accepted) else None for accepted in references] for k in range(most)]
    bleu = BLEU()
    value = min(1.0, bleu.corpus_score(list(texts), columns).score / 100)  # 100.00000000000004 happens
    return TextScore(value, {"bleu": value}, str(bleu.get_signature()))


def _signature(metric: str) -> str:
    if metric in ROUGE:
        from importlib.metadata import version

        return f"rouge-score {version('rouge-score')}, F1, Porter stemmer, sentences by rule, best reference"
    if metric == "exact_match":
        return "all words equal, white space aside, to a reference"
    return "SQuAD: lower case, no punctuation, no articles, best reference"


_ONE: dict[str, Callable[[str, Sequence[str]], float]] = {
    "exact_match": _exact,
    "bleu": _sentence_bleu,
    **{name: _rouge(name) for name in ROUGE},
    "squad_f1": _squad_f1,
    "squad_em": _squad_em,
}
METRICS = ("exact_match", "bleu", "rouge_lsum", "squad_f1")
