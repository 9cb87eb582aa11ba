"""Labels in all the ways that users write them."""

from typing import Any

import pytest

from ptm_lightning.data.labels import Labels, label_of
from ptm_lightning.errors import UserError


def seen(*values: Any, **settings: Any) -> Labels:
    labels = Labels(**settings)
    for value in values:
        labels.take(value, "rows.jsonl:1")
    return labels


@pytest.mark.parametrize(
    ("values", "kind", "names"),
    [
        (("b", "a", "b"), "single_label_classification", ["a", "b"]),
        ((10, 2, 0), "single_label_classification", ["0", "2", "10"]),
        ((True, False), "single_label_classification", ["False", "True"]),
        ((["b"], [], ["a", "b"]), "multi_label_classification", ["a", "b"]),
        ((0.5, 2, 3.25), "regression", []),
        (('["b"]', "[]", ' ["a", "b"]'), "multi_label_classification", ["a", "b"]),
        (("[b]", "[a"), "single_label_classification", ["[a", "[b]"]),
    ],
)
def test_the_first_label_says_what_they_are(values: tuple[Any, ...], kind: str, names: list[str]):
    labels = seen(*values)
    assert labels.problem_type == kind
    assert labels.names == names


def test_targets():
    assert list(seen("b", "a").targets(["a", "b", "b"])) == [0, 1, 1]
    assert [row.tolist() for row in seen(["b"], ["a"]).targets([["b"], [], ["b", "a"]])] == [[0, 1], [0, 0], [1, 1]]
    assert [row.tolist() for row in seen('["b"]', '["a"]').targets(['["b", "a"]'])] == [[1, 1]]
    assert list(seen(0.5).targets([1, "2.5"])) == [1.0, 2.5]


def test_the_order_of_a_pretrained_head_is_kept_for_the_same_names():
    assert seen("a", "b", "c", preferred=["c", "a", "b"]).names == ["c", "a", "b"]
    assert seen("a", "b", preferred=["c", "a", "b"]).names == ["a", "b"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("a", 0.5), "rows.jsonl:1: the label 0.5 is no name, others are; write all labels in the same way"),
        (("a", '["a", "b"]'), 'rows.jsonl:1: the label \'["a", "b"]\' is no name, others are; write all'),
        ((1, "1"), "rows.jsonl:1: the label '1' is of another type than 1 before; write all labels as text, or all"),
        ((1, True), "rows.jsonl:1: the label True is of another type than 1 before"),
        ((["a"], ["b", 1]), "rows.jsonl:1: the label 1 is of another type than 'a' before"),
        ((["a"], "b"), "rows.jsonl:1: the label 'b' is no list, others are; write ["),
        ((0.5, "b"), "rows.jsonl:1: the label 'b' is no number, and numbers are to be predicted"),
        ((0.5, float("nan")), "rows.jsonl:1: the label nan is no number"),
        (({"a": 1},), "rows.jsonl:1: the label {'a': 1} is neither a name nor a number"),
    ],
)
def test_labels_that_dont_fit_are_refused(values: tuple[Any, ...], message: str):
    with pytest.raises(UserError) as error:
        seen(*values)
    assert str(error.value).startswith(message)


def test_text_that_looks_like_numbers_is_asked_about():
    with pytest.raises(UserError, match=r"such as '3\.80'; predict numbers with --data\.problem_type regression, or"):
        seen("3.80", "1").check_all()
    seen("3.80", "1", problem_type="single_label_classification").check_all()
    seen("3.80", "x").check_all()
    seen("1", "0").check_all()


def test_a_label_that_training_lacks_is_refused_with_the_nearest():
    with pytest.raises(UserError, match="the label 'spott' doesn't occur in training; did you mean 'sport'"):
        seen("sport", "politics").check("spott", "dev.jsonl:7")


def test_a_trained_model_takes_no_other_label():
    assert seen("a", known=["b", "a"]).names == ["b", "a"]
    with pytest.raises(UserError, match=r"'c' doesn't occur in training; .* the model was trained for others"):
        seen("c", known=["a", "b"])


def test_a_row_without_a_label_is_refused():
    for row in ({"text": "x"}, {"text": "x", "label": None}, {"text": "x", "label": ""}):
        with pytest.raises(UserError, match=r"a\.csv:3: no label; the columns are text"):
            label_of(row, "a.csv:3")


def test_strata_tell_names_apart_and_numbers_not():
    names, several, numbers = seen("a"), seen(["a"]), seen(0.5)
    assert names.stratum("a") == names.stratum("a") != names.stratum("b")
    assert several.stratum(["a", "b"]) == several.stratum(["b", "a"]) != several.stratum(["b"])
    assert numbers.stratum(0.5) == numbers.stratum(2) == numbers.stratum("2.5")
