"""Which block of the deep model teaches which block of the shallow one (free.md 1a). Loads no torch.

Blocks are numbered from 1. The shallow model is the first s of the L blocks.
"""

from __future__ import annotations

from collections.abc import Sequence


def uniform_map(shallow: int, blocks: int) -> tuple[int, ...]:
    """Return the teacher T(j) of each student j = 1..s: equally spaced, the last one is block L.

    T(j) = ceil(j L / s), which is j L / s where s divides L. Rounded up, every teacher is deeper than its student, for
    any s < L; rounded to the nearest, block 1 of 10 would teach itself in a model of 11. The hand-written map of the
    reference for 10 of 24 blocks (3, 6, 8, 11, 13, 16, 18, 20, 22, 24) is no rounding of equal steps: it begins with
    wide ones and ends with narrow ones.

    Parameters
    ----------
    shallow
        s.
    blocks
        L.
    """
    return tuple(-(-student * blocks // shallow) for student in range(1, shallow + 1))


def dynamic_map(distances_TS: Sequence[Sequence[float]]) -> tuple[int, ...]:
    """Return the student a(j) of each teacher, given their distances; row j is teacher T(j), column i student i.

    From the last teacher to the first, each takes the nearest student (of equals the earliest) before the one taken
    last; once student 1 is taken, it is kept. So the students fall strictly until the first. Students after the one
    that the last teacher takes learn from no teacher, block s itself may be among them.
    """
    taken: list[int] = []
    for distances_S in reversed(distances_TS):
        free = range(taken[-1] - 1 if taken else len(distances_S))
        taken.append(min(free, key=distances_S.__getitem__) + 1 if free else taken[-1])
    return tuple(reversed(taken))
