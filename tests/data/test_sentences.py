from itertools import pairwise
from pydoc_data.topics import topics

import numpy as np
import pytest

from ptm_lightning.data.sentences import hashes, spans


def sentences(text: str) -> list[str]:
    return [text[start:end] for start, end in spans(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n ", []),
        ("No mark", ["No mark"]),
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("Dr. Smith met J. R. Tolkien, e.g. Here. Then", ["Dr. Smith met J. R. Tolkien, e.g. Here.", "Then"]),
        (
            "It is 3.14 on example.org. See No. 5. He said no. Why",
            ["It is 3.14 on example.org.", "See No. 5.", "He said no.", "Why"],
        ),
        ('"What?" he asked. "Yes!" Done...', ['"What?" he asked.', '"Yes!"', "Done..."]),
        ('A.\n"Quoted" line', ["A.", '"Quoted" line']),
        ("1. First\n2. Second", ["1. First", "2. Second"]),
        ("A wrapped\n  line ends.\n\nnew one\n\nand one", ["A wrapped\n  line ends.", "new one", "and one"]),
        ("Title\nText", ["Title", "Text"]),
        ("他说：「你好。」我也是！真的？是", ["他说：「你好。」", "我也是！", "真的？", "是"]),  # noqa: RUF001
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


def test_spans_rise_and_hold_all_that_is_not_space() -> None:
    for text in topics.values():
        found = spans(text)
        assert all(end <= start for (_, end), (start, _) in pairwise(found))
        assert "".join("".join(text[start:end].split()) for start, end in found) == "".join(text.split())
        assert all(text[start:end].strip() == text[start:end] != "" for start, end in found)


def test_hashes_ignore_case_and_white_space_only() -> None:
    one, same, other = (
        hashes(text) for text in ("The  cat\n sat. It ate.", "the CAT sat.\tIt ate.", "The cat sits. It ate.")
    )
    np.testing.assert_array_equal(one, same)
    assert one[0] != other[0]
    assert one[1] == other[1]
    assert one.dtype == np.uint64
    assert len(hashes("")) == 0
    assert len(hashes("half a pair \ud800")) == 1
