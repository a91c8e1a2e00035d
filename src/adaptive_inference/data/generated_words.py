"""Words and sentence patterns of the generated task; `generated` tells how they are put together.

In a pattern a ``*`` marks the words that carry the label (the rationale); ``{...}`` are slots. Tokens are
separated by single spaces, punctuation included, so that word positions are unambiguous.
"""

from __future__ import annotations

#: Cue words by label: 0 negative, 1 positive. Equally many, so that no word count tells the label.
CUES = (
    ("awful", "terrible", "dull", "boring", "horrible", "poor", "bad", "weak"),
    ("superb", "wonderful", "brilliant", "charming", "excellent", "lovely", "good", "great"),
)

NOUNS = ("plot", "acting", "script", "music", "ending", "dialogue", "story", "cast", "scenery", "opening")

PEOPLE = (
    "my brother",
    "my sister",
    "a friend",
    "the critic",
    "maria",
    "tom",
    "my boss",
    "anna",
    "peter",
    "my uncle",
)

#: Names of one word, for sentences in which a name has to be found again.
NAMES = ("maria", "tom", "anna", "peter")

#: Links between a noun and its cue.
VERBS = ("was", "felt", "seemed")
LINKS = (*VERBS, "was really")

#: Negators that stand directly before what they negate.
NEGATORS = ("not", "never", "hardly")

#: Neutral openings and endings, some with a negator or a person in them, so that the mere presence of such a word
#: tells nothing.
OPENINGS = (
    "we saw it last night and ", "after dinner we watched it : ", "on the whole , ", "in the end , ",
    "it ran for two hours : ", "we did not sit in the front row , and ", "{person} drove us home : ",
    "it was not filmed in paris , and ", "{person} had never heard of it : ", "as far as one can tell , ",
    "this is the second part , and ",
)  # fmt: skip
ENDINGS = (
    " when we watched it on sunday", " in the version that we saw", " during the second half",
    " , and it ran for two hours", " , and we did not stay for the credits", " , as {person} knows",
    " , and {person} did not come along", " from start to finish", " , and that was the second part",
)  # fmt: skip

PLAIN = (
    "the {noun} {link} *{cue}",
    "i found the {noun} *{cue}",
    "it had the most *{cue} {noun}",
    "i thought the {noun} {link} *{cue}",
)

#: The negator stands beside the cue: a short reach tells this tier from the longer ones.
NEGATED = (
    "the {noun} {verb} *{negator} *{cue}",
    "the {noun} {verb} *{negator} really *{cue}",
    "i found the {noun} *{negator} *{cue}",
    "the {noun} {verb} *anything *but *{cue}",
)
#: A negator that is not about the cue: without these, its presence alone would turn the cue round.
ELSEWHERE_SHARE = 0.3
NEGATED_ELSEWHERE = (
    "not only the {other_noun} , the {noun} {link} *{cue} too",
    "i did not expect it : the {noun} {link} *{cue}",
    "it was never about the {other_noun} : the {noun} {link} *{cue}",
    "i did not read the book , and the {noun} {link} *{cue}",
)

#: Contrast of two clauses: the clause that is conceded loses. Half of them name the winner first.
CONTRAST_WINNER_FIRST = (
    "the {noun} {link} *{win} *although the {other_noun} {other_link} {lose}",
    "the {noun} {link} *{win} , *even *though the {other_noun} {other_link} {lose}",
    "the {noun} {link} *{win} , *never *mind that the {other_noun} {other_link} {lose}",
    "the {noun} {link} *{win} , *granted that the {other_noun} {other_link} {lose}",
    "the {noun} {link} *{win} , *whatever one says of the {lose} {other_noun}",
)
CONTRAST_WINNER_LAST = (
    "*although the {other_noun} {other_link} {lose} , the {noun} {link} *{win}",
    "*even *though the {other_noun} {other_link} {lose} , the {noun} {link} *{win}",
    "the {other_noun} {other_link} {lose} , *but the {noun} {link} *{win}",
    "*granted , the {other_noun} {other_link} {lose} ; the {noun} {link} *{win}",
    "the {other_noun} {other_link} {lose} ; *still the {noun} {link} *{win}",
)

#: Somebody else's opinion beside the writer's; the writer's counts, whatever the connective and the order.
OWN = (
    "*i found the {noun} *{win}",
    "*i thought that the {noun} was *{win}",
    "to *me the {noun} {link} *{win}",
    "in *my view the {noun} {link} *{win}",
)
OTHERS = (
    "{person} found the {other_noun} {lose}",
    "{person} thought that the {other_noun} was {lose}",
    "to {person} the {other_noun} {other_link} {lose}",
    "in the view of {person} the {other_noun} {other_link} {lose}",
)
LINKERS = (" , but ", " , and ", " , while ", " although ", " ; ")
#: Two others' opinions, and the writer joins one of them; which of the two is named first is drawn apart.
JOINED_SHARE = 0.1  #: a larger share takes more than 2,040 training rows to learn
JOINED = ("{joined} found the {noun} *{win}", "to {joined} the {noun} {link} *{win}")
LEFT = ("{left} found the {other_noun} {lose}", "to {left} the {other_noun} {other_link} {lose}")
JOINING = (" , and i side with {joined}", " , and i agree with {joined}", " : {joined} is right")

#: Frames around a clause: with one negator they turn it round, with two they leave it as it is.
TURNING = ("i *doubt that ", "i *deny that ", "i would *not *say that ", "it is *not *true that ")
KEEPING = (
    "i do *not *doubt that ",
    "i can *not *deny that ",
    "i would *not *deny that ",
    "it is *not *false that ",
)
NESTED_NEGATED = ("the {noun} was *{negator} *{cue}", "the {noun} {verb} *anything *but *{cue}")
#: Of the sentences with two negators, those with both in the frame; their clause alone tells the label.
NESTED_PLAIN_SHARE = 0.25
NESTED_PLAIN = ("the {noun} {link} *{cue}",)
