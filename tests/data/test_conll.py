"""CoNLL's files: which lines are tokens."""

import pytest

from ptm_lightning.data.conll import conll_sentences


def read(text: str) -> list[list[str]]:
    return [[" ".join(columns) for _, columns in sentence] for sentence in conll_sentences(text.splitlines())]


@pytest.mark.parametrize(
    "comment",
    [
        "# id 5239d808 domain=en",
        "# id 5239d808",
        "# sent_id = 1\n# text = a cat",
        "#",
        "# a licence of many words\n\n# id 5239d808 domain=en",
    ],
)
def test_comments_before_a_sentence_are_no_tokens(comment: str) -> None:
    text = f"{comment}\na _ _ O\ncat _ _ B-A\n\n{comment}\n# _ _ O\n7 _ _ B-N\n"
    assert read(text) == [["a _ _ O", "cat _ _ B-A"], ["# _ _ O", "7 _ _ B-N"]]


@pytest.mark.parametrize("sentence", ["# O\n7 B-N", "7 B-N\n# O\n# a b O", "#\n7", "a O\n\n# O"])
def test_the_sign_is_a_token_where_it_has_the_columns_of_one(sentence: str) -> None:
    assert read(sentence) == [part.splitlines() for part in sentence.split("\n\n")]


def test_a_sentence_is_known_by_the_line_of_its_first_token() -> None:
    text = "-DOCSTART- -X- O\n\n# id 1\na O\n\n\nb O\n"
    assert [sentence[0][0] for sentence in conll_sentences(text.splitlines())] == [4, 7]
