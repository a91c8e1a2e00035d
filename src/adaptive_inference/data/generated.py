"""The generated classification task: reviews in one sentence, with known difficulty and known rationale.

Needs no network, so it is the default; and it measures what real data only suggest: whether easy examples leave
early (tiers) and whether the right tokens stay (rationales).

Tiers, in the order of the composition that they ask for:

1. a plain cue word: "the plot was superb"
2. negation: "the plot was not superb"
3. contrast: of two clauses, the conceded one loses: "although the plot was superb , the music was dull"
4. distractor: somebody else's opinion beside the writer's: "maria found the plot superb , but to me the music was dull"
5. nested negation: two or three negators: "i would not deny that the plot was never dull"

In tier 2 the negator is about something else in three of ten sentences ("i did not expect it : the plot was superb").
In tiers 3 and 4 both polarities occur in every sentence, and the cue that counts is first as often as last; in tier 5
the label is the parity of the negators times the cue's polarity. So no linear function of word counts can tell the
label of these tiers. `docs/generated_task.md` has the measurements.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from random import Random

from adaptive_inference.data import generated_words as words
from adaptive_inference.errors import UserError
from adaptive_inference.tasks.schema import Example, Split

#: Names of the two classes, where the params give no others.
LABELS = ("negative", "positive")

#: Names of the tiers 1 to 5.
TIERS = ("plain cue", "negation", "contrast", "distractor opinion", "nested negation")

#: Shortest and longest sentence, in words with punctuation.
WORDS = (5, 24)

#: Fresh sentences tried in a row before the task counts as exhausted.
_TRIES = 1000


def generate(rows: int, stream: str, label_noise: float = 0.0, exclude: Collection[str] = ()) -> Split:
    """Write distinct labelled sentences.

    Parameters
    ----------
    rows
        Number of examples; tiers take turns, and within a tier the clean labels do.
    stream
        Name of the random stream; the same name gives the same examples on every machine.
    label_noise
        Share of labels flipped, the same in every tier up to rounding; ``clean_label`` keeps the truth.
    exclude
        Texts that must not occur.

    Returns
    -------
    Split
        Shuffled examples with ``tier``, ``rationale`` and ``clean_label``; ids are positions.

    Raises
    ------
    UserError
        The patterns do not hold that many distinct sentences.
    """
    random = Random(stream)  # a string seed goes through sha512: the same on every machine and Python >= 3.2
    seen = set(exclude)
    drafts: list[tuple[str, tuple[int, ...], int, int]] = []
    for row in range(rows):
        tier, label = row % len(TIERS) + 1, row // len(TIERS) % 2
        for _ in range(_TRIES):
            text, rationale = _finish(_WRITERS[tier - 1](random, label), random)
            if text not in seen and WORDS[0] <= text.count(" ") + 1 <= WORDS[1]:
                break
        else:
            raise UserError(
                f"the generated task has no {rows} distinct sentences (tier {tier} ran out after "
                f"{len(drafts)} in all); ask for fewer `generated.rows`"
            )
        seen.add(text)
        drafts.append((text, rationale, tier, label))
    flipped = _flipped([draft[2] for draft in drafts], label_noise, random)
    order = list(range(rows))
    random.shuffle(order)
    return Split(
        Example(
            id=position,
            texts=(drafts[row][0],),
            label=1 - drafts[row][3] if row in flipped else drafts[row][3],
            tier=drafts[row][2],
            rationale=drafts[row][1],
            clean_label=drafts[row][3],
        )
        for position, row in enumerate(order)
    )


def _flipped(tiers: list[int], share: float, random: Random) -> set[int]:
    """Choose the rows whose label is wrong: the same share of every tier, so that every tier has one ceiling."""
    chosen: set[int] = set()
    for tier in sorted(set(tiers)):
        rows = [row for row, other in enumerate(tiers) if other == tier]
        chosen.update(random.sample(rows, round(share * len(rows))))
    return chosen


def _plain(random: Random, label: int) -> str:
    return _fill(random.choice(words.PLAIN), random, cue=random.choice(words.CUES[label]))


def _negated(random: Random, label: int) -> str:
    """Write a negator that turns the cue round (most of the sentences) or is about something else."""
    turned = random.random() >= words.ELSEWHERE_SHARE
    pattern = random.choice(words.NEGATED if turned else words.NEGATED_ELSEWHERE)
    return _fill(pattern, random, cue=random.choice(words.CUES[1 - label if turned else label]))


def _contrast(random: Random, label: int) -> str:
    patterns = random.choice((words.CONTRAST_WINNER_FIRST, words.CONTRAST_WINNER_LAST))
    return _fill(random.choice(patterns), random, **_both_cues(random, label))


def _distractor(random: Random, label: int) -> str:
    """Write the writer's opinion against another's, or two others' of which the writer joins one."""
    joins = random.random() < words.JOINED_SHARE
    clauses = [
        random.choice(words.JOINED if joins else words.OWN),
        random.choice(words.LEFT if joins else words.OTHERS),
    ]
    random.shuffle(clauses)
    pattern = random.choice(words.LINKERS).join(clauses) + (random.choice(words.JOINING) if joins else "")
    return _fill(pattern, random, **_both_cues(random, label))


def _nested(random: Random, label: int) -> str:
    """Write three negators (odd) in half of the sentences, two (even) in the other half."""
    odd = random.random() < 0.5
    if odd:
        frame, clause = words.KEEPING, words.NESTED_NEGATED
    elif random.random() >= words.NESTED_PLAIN_SHARE:
        frame, clause = words.TURNING, words.NESTED_NEGATED
    else:
        frame, clause = words.KEEPING, words.NESTED_PLAIN
    cue = random.choice(words.CUES[1 - label if odd else label])
    return _fill(random.choice(frame) + random.choice(clause), random, cue=cue)


_WRITERS: tuple[Callable[[Random, int], str], ...] = (_plain, _negated, _contrast, _distractor, _nested)


def _both_cues(random: Random, label: int) -> dict[str, str]:
    return {"win": random.choice(words.CUES[label]), "lose": random.choice(words.CUES[1 - label])}


def _fill(pattern: str, random: Random, **cues: str) -> str:
    """Fill the slots of a pattern; two nouns, or two people, of one core differ."""
    noun, other_noun = random.sample(words.NOUNS, 2)
    joined, left = random.sample(words.NAMES, 2)
    return pattern.format(
        noun=noun,
        other_noun=other_noun,
        link=random.choice(words.LINKS),
        other_link=random.choice(words.LINKS),
        verb=random.choice(words.VERBS),
        negator=random.choice(words.NEGATORS),
        person=random.choice(words.PEOPLE),
        left=left,
        joined=f"*{joined}",
        **cues,
    )


def _finish(core: str, random: Random) -> tuple[str, tuple[int, ...]]:
    """Put a neutral opening or ending beside the core, or neither; return the text and the marked words' positions."""
    kind = random.randrange(4)
    opening = random.choice(words.OPENINGS) if kind == 1 else ""
    ending = random.choice(words.ENDINGS) if kind == 2 else ""
    bystander = random.choice(words.PEOPLE)
    marked = f"{opening.format(person=bystander)}{core}{ending.format(person=bystander)} .".split()
    rationale = tuple(position for position, word in enumerate(marked) if word.startswith("*"))
    return " ".join(word.removeprefix("*") for word in marked), rationale
