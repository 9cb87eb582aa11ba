"""Windows against sliding them one by one, and rows against transformers' own tokenizer."""

from itertools import pairwise

import numpy as np
import pytest

from ptm_lightning.data.windows import cut_windows


def slid(question: int | None, context: int, room: int, stride: int) -> list[tuple[int, int, int]]:
    """(tokens of the question, first token, tokens of the context) of each window."""
    kept = 0 if question is None else min(question, room // 2)
    width, begin = room - kept, 0
    found = []
    while True:
        found.append((kept, begin, min(width, context - begin)))
        if begin + width >= context:
            return found
        begin += min(stride, width)


@pytest.mark.parametrize(("room", "stride"), [(2, 1), (7, 2), (8, 8), (20, 6)])
@pytest.mark.parametrize("fields", [1, 2])
def test_windows_leave_nothing_out(fields: int, room: int, stride: int) -> None:
    lengths = np.random.default_rng(0).integers(0, 40, size=(300, fields))
    cut = cut_windows(lengths, room, stride)
    found = list(zip(cut.example.tolist(), cut.begin.tolist(), cut.lengths.tolist(), strict=True))
    expected = [
        (example, begin, [kept, taken][-fields:])
        for example, row in enumerate(lengths.tolist())
        for kept, begin, taken in slid(row[0] if fields == 2 else None, row[-1], room, stride)
    ]
    assert found == expected
    for example, row in enumerate(lengths.tolist()):
        mine = [(begin, begin + taken[-1]) for number, begin, taken in found if number == example]
        assert mine[0][0] == 0
        assert mine[-1][1] == row[-1]
        assert all(begin <= end for (_, end), (begin, _) in pairwise(mine))
    assert (cut.lengths.sum(axis=1) <= room).all()
