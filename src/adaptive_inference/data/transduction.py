"""The generated text task: one target word for each source word, each of a known difficulty.

Needs no network, so it is the default; and it measures what real texts only suggest: whether easy tokens leave early.

- ``copied``: an English noun stands for itself. "lamp" -> "lamp"
- ``look-up``: a German noun becomes an English one, by a dictionary that only the training rows tell. "katze" -> "cat"
- ``arithmetic``: a digit is added to the running total, modulo seven, and the new total is written as a word. The total
  begins at 0, so that "katze 6 lamp 3" -> "cat six lamp two". What is added to stands in the target alone: an encoder
  would have to sum up all digits before, the decoder adds two numbers, after it has found both.

A number never begins a source and never follows a number, and no other word comes twice in a source: the word before tells
which word comes next, so that finding the place is easy for a model without absolute positions, such as T5.
"""

from __future__ import annotations

from collections.abc import Collection
from random import Random

from adaptive_inference.errors import UserError
from adaptive_inference.tasks.text_schema import TextExample

#: Kinds of target words, from the easy to the hard.
DIFFICULTIES = ("copied", "look-up", "arithmetic")

#: Shortest and longest source, in words; a target is as long.
WORDS = (5, 9)

#: Of a word that may be of any kind, how often it is of each; after a number the first two share the rest.
SHARES = (0.35, 0.25, 0.4)

#: Nouns that are copied.
COPIED = (
    "lamp", "table", "chair", "window", "door", "river", "mountain", "forest", "bridge", "street", "garden", "kitchen",
    "mirror", "bottle", "candle", "blanket", "ladder", "hammer", "basket", "bucket", "pencil", "paper", "ticket", "letter",
    "button", "jacket", "shoe", "hat", "ring", "clock", "piano", "guitar", "drum", "camera", "engine", "wheel", "boat",
    "train", "rocket", "island",
)  # fmt: skip

#: The dictionary.
LOOKED_UP = {
    "katze": "cat", "hund": "dog", "pferd": "horse", "kuh": "cow", "schaf": "sheep", "ziege": "goat", "schwein": "pig",
    "huhn": "hen", "ente": "duck", "gans": "goose", "maus": "mouse", "hase": "hare", "fuchs": "fox", "bär": "bear",
    "hirsch": "deer", "igel": "hedgehog", "dachs": "badger", "löwe": "lion", "eule": "owl", "adler": "eagle",
    "rabe": "raven", "spatz": "sparrow", "taube": "dove", "schwan": "swan", "storch": "stork", "biene": "bee",
    "ameise": "ant", "spinne": "spider", "fliege": "fly", "käfer": "beetle", "frosch": "frog", "kröte": "toad",
    "schlange": "snake", "fisch": "fish", "hai": "shark", "wal": "whale", "robbe": "seal", "krebs": "crab",
    "schnecke": "snail", "affe": "monkey",
}  # fmt: skip

#: Digits are read, number words are written.
DIGITS = "0123456"
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")


def generate(rows: int, stream: str, exclude: Collection[str] = ()) -> list[TextExample]:
    """Write distinct sources and their targets.

    Parameters
    ----------
    rows
        Number of examples; the lengths take turns.
    stream
        Name of the random stream; the same name gives the same examples on every machine.
    exclude
        Sources that must not occur.

    Returns
    -------
    list of TextExample
        Shuffled, with ``difficulties``; ids are positions. Each holds all three kinds.
    """
    random = Random(stream)  # a string seed goes through sha512: the same on every machine and Python >= 3.2
    seen = set(exclude)
    drafts: list[tuple[str, tuple[str, ...]]] = []
    lengths = range(WORDS[0], WORDS[1] + 1)
    while len(drafts) < rows:
        kinds = _kinds(lengths[len(drafts) % len(lengths)], random)
        source = " ".join(_source_words(kinds, random))
        if source not in seen:  # there are millions, so that a fresh one is always found
            seen.add(source)
            drafts.append((source, kinds))
    random.shuffle(drafts)
    return [
        TextExample(position, source, write(source), difficulties=kinds)
        for position, (source, kinds) in enumerate(drafts)
    ]


def write(source: str) -> str:
    """Return the target of a source: the rule of the task.

    Raises
    ------
    UserError
        The source holds a word that the task does not have.
    """
    total = 0
    target = []
    for word in source.split(" "):
        if word in LOOKED_UP:
            target.append(LOOKED_UP[word])
        elif word in COPIED:
            target.append(word)
        elif len(word) == 1 and word in DIGITS:
            total = (total + int(word)) % len(NUMBERS)
            target.append(NUMBERS[total])
        else:
            raise UserError(f"the generated text task has no word {word!r}; use its nouns and digits")
    return " ".join(target)


def _kinds(length: int, random: Random) -> tuple[str, ...]:
    """Draw the kind of each word, until all are there."""
    while True:
        kinds: list[str] = []
        for _ in range(length):
            free = bool(kinds) and kinds[-1] != "arithmetic"
            known = len(DIFFICULTIES) if free else len(DIFFICULTIES) - 1
            kinds += random.choices(DIFFICULTIES[:known], SHARES[:known])
        if set(kinds) == set(DIFFICULTIES):
            return tuple(kinds)


def _source_words(kinds: tuple[str, ...], random: Random) -> list[str]:
    copied = iter(random.sample(COPIED, len(kinds)))
    keys = iter(random.sample(list(LOOKED_UP), len(kinds)))
    digits = iter(random.choices(DIGITS, k=len(kinds)))
    by_kind = {"copied": copied, "look-up": keys, "arithmetic": digits}
    return [next(by_kind[kind]) for kind in kinds]
