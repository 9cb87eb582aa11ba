"""Questions and answers: what is stored of them, and windows of them as batches."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ptm_lightning.tasks import QuestionAnsweringData
from row_files import write
from tokenizers import Tokenizer

from ptm_lightning.data.answers import Answer, Span, answers_of, stands_there, tokens_of, trimmed
from ptm_lightning.data.layout import Pieces
from ptm_lightning.data.questions import notes, null_token
from ptm_lightning.data.template import Template
from ptm_lightning.data.tokenizer import raw
from ptm_lightning.data.tokenizer_training import Algorithm, train_tokenizer
from ptm_lightning.errors import UserError

CONTEXT = "The  cat sees\ta dog. Naïve 北京大学 in the garden\u3000,\n on day 1,000."
TEXTS = [CONTEXT, "who sees the cat ?", "where is it on the day ?"] * 3


def row(number: int, words: int = 6, answer: str | None = "w3") -> dict[str, Any]:
    context = f"c{number} " + " ".join(f"w{i}" for i in range(words))
    found = [] if answer is None else [answer]
    answers = {"text": found, "answer_start": [context.index(text) for text in found]}
    return {"id": f"id{number}", "context": context, "question": f"where is it {number} ?", "answers": answers}


def opened(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> QuestionAnsweringData:
    """A data module that has read these rows, without a trainer."""
    data = QuestionAnsweringData(train=[write(folder / "train.jsonl", rows)], **{"vocab_size": 300, **settings})
    data.corpus = data.open_corpus()
    data.hf_tokenizer = data.corpus.tokenizer
    data.frame = data.make_frame()
    return data


@pytest.mark.parametrize("algorithm", ["wordpiece", "bpe", "unigram"])
def test_tokens_of_an_answer_cover_it_and_no_more(algorithm: Algorithm) -> None:
    tokenizer: Tokenizer = raw(train_tokenizer(TEXTS, algorithm, 300, 128, ()))
    offsets = trimmed(tokenizer.encode(CONTEXT, add_special_tokens=False).offsets, CONTEXT)
    for begin in range(len(CONTEXT)):
        for end in range(begin + 1, len(CONTEXT) + 1):
            answer = Answer(CONTEXT[begin:end], begin)
            letters = [i for i in range(begin, end) if not CONTEXT[i].isspace()]
            touched = [i for i, one in enumerate(offsets) if set(letters) & set(range(*one))]
            if letters:  # white space alone is no answer
                assert tokens_of(answer, offsets) == (touched[0], touched[-1])
    answer = Answer("北京大学 in the garden", CONTEXT.index("北"))
    span = tokens_of(answer, offsets)
    assert CONTEXT[offsets[span.first].first : offsets[span.last].last] == answer.text


def test_an_answer_that_no_token_has_is_nowhere() -> None:
    assert tokens_of(Answer("x", 2), [Span(0, 1), Span(5, 6)]) == (-1, -1)
    assert tokens_of(Answer("x", 9), [Span(0, 1), Span(5, 6)]) == (-1, -1)


@pytest.mark.parametrize(
    "given",
    [
        {"text": ["a cat", "cat"], "answer_start": [0, 2]},
        [{"text": "a cat", "answer_start": 0}, {"text": "cat", "answer_start": 2}],
        '{"text": ["a cat", "cat"], "answer_start": [0, 2]}',
    ],
)
def test_answers_in_each_form(given: Any) -> None:
    assert answers_of({"answers": given}, "") == [("a cat", 0), ("cat", 2)]


@pytest.mark.parametrize("given", [{"text": [], "answer_start": []}, [], "[]"])
def test_no_answer_in_each_form(given: Any) -> None:
    assert answers_of({"answers": given}, "") == []


@pytest.mark.parametrize(
    "given",
    [
        {"text": ["a"], "answer_start": []},
        {"text": ["a"], "answer_start": ["0"]},
        {"text": ["a"], "answer_start": [True]},
        {"text": ["a"]},
        {"text": "a", "answer_start": 0},
        "a cat",
        "7",
        7,
        [7],
        [{"text": None, "answer_start": 0}],
    ],
)
def test_broken_answers_are_refused(given: Any) -> None:
    with pytest.raises(UserError, match=r"rows.jsonl:3: the answers are .*write \{"):
        answers_of({"answers": given}, "rows.jsonl:3")


def test_missing_answers_name_the_columns() -> None:
    with pytest.raises(UserError, match=r"x:1: no answers; the row's columns are id, reply; .*--data.columns.answers"):
        answers_of({"id": 1, "reply": "a"}, "x:1")


def test_an_answer_stands_where_it_says() -> None:
    assert stands_there(Answer("cat", 2), "a cat")
    for answer in (Answer("cat", 1), Answer("cat", -3), Answer("cat", 99), Answer("", 0), Answer(" ", 1)):
        assert not stands_there(answer, "a cat")


def misplaced_rows() -> list[dict[str, Any]]:
    rows = [row(i) for i in range(20)]
    rows[4]["answers"] = {"text": ["w3", "w3"], "answer_start": [rows[4]["answers"]["answer_start"][0], 0]}
    rows[9]["answers"] = {"text": ["nowhere"], "answer_start": [2]}
    return rows


def test_misplaced_answers_are_refused_all_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        opened(tmp_path, misplaced_rows())
    assert "--data.misplaced refuse: 2 of 20 rows have an answer that isn't in the context" in str(error.value)
    assert "train.jsonl:5: 'w3' at 0, where 'c4 w0 w1 w' stands" in str(error.value)
    assert "train.jsonl:10: 'nowhere' at 2, where" in str(error.value)


def test_misplaced_answers_are_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    more = write(tmp_path / "more.jsonl", [row(i) for i in range(30, 40)])
    first = write(tmp_path / "first.jsonl", misplaced_rows())
    other = write(tmp_path / "other.jsonl", [row(i) for i in range(40, 43)])
    sources: dict[str, Any] = {"train": [first, more], "validation": [other], "test": [other]}
    corpus = QuestionAnsweringData(**sources, misplaced="skip", vocab_size=300).open_corpus()
    assert "--data.misplaced" not in caplog.text  # it is said by split, of those that a stage reads
    assert corpus.train.counted == {"misplaced": 2}
    assert len(corpus.train) == 28
    assert corpus.sources == (0, 18, 28)
    assert corpus.train.info["empty"] == 2
    assert corpus.provenance["questions"] == {
        "questions": 30,
        "without an answer": 0,
        "left out for a misplaced answer": 2,
    }


def test_what_is_left_out_is_said_whenever_the_split_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings: dict[str, Any] = {"misplaced": "skip", "validation_share": 0.0, "test_share": 0.0}
    settings["validation"] = [write(tmp_path / "other.jsonl", [row(40)])]
    opened(tmp_path, misplaced_rows(), **settings)
    data = opened(tmp_path, misplaced_rows(), **settings)  # it comes from the cache
    data._say_what_is_cut("train", data.corpus.train)
    data._say_what_is_cut("validation", data.corpus.validation)
    told = [message for message in caplog.messages if message.startswith("--data.")]
    assert told == ["--data.misplaced skip: 2 training questions are left out for a misplaced answer"]


def test_if_all_are_misplaced_there_is_nothing_to_train_on(tmp_path: Path) -> None:
    rows = [one | {"answers": {"text": ["nowhere"], "answer_start": [0]}} for one in map(row, range(9))]
    with pytest.raises(UserError, match=r"--data.train: no row that can be used"):
        opened(tmp_path, rows, misplaced="skip")


@pytest.mark.parametrize("name", ["question", "context"])
def test_an_empty_text_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"train.jsonl:3: the {name} is empty"):
        opened(tmp_path, [row(0), row(1), row(2) | {name: " \n"}])


def test_questions_on_one_context_are_held_out_together(tmp_path: Path) -> None:
    rows = [row(i // 5) | {"question": f"which one is {i} ?"} for i in range(100)]
    corpus = opened(tmp_path, rows, validation_share=0.2, test_share=0.2).corpus
    contexts = [
        {one["context"] for one in store.rows(range(len(store)))}  # type: ignore[attr-defined]
        for store in (corpus.train, corpus.validation, corpus.test)
    ]
    assert [len(split) for split in contexts] == [12, 4, 4]
    assert len(set.union(*contexts)) == 20
    assert set(corpus.provenance["duplicates"].values()) == {0}


def pieces_of(data: QuestionAnsweringData, store: Any) -> Pieces:
    lay_out = data.rows_maker(store, evaluate=False)
    length = np.diff(store.offsets)
    return lay_out(store.offsets[:-1], length, np.zeros_like(length))


@pytest.mark.parametrize("algorithm", ["wordpiece", "bpe", "xlnet"])
def test_windows_are_those_of_transformers(tmp_path: Path, algorithm: Algorithm) -> None:
    rows = [row(i, words=i, answer=None) for i in range(0, 90, 3)]
    data = opened(tmp_path, rows, max_length=32, stride=5, tokenizer_algorithm=algorithm)
    store: Any = data.corpus.train
    collate, pieces = data.collate_examples(store, evaluate=True), pieces_of(data, store)
    batch = collate(pieces)
    found = [ids[real > 0].tolist() for ids, real in zip(batch["input_ids"], batch["document_ids"], strict=True)]
    expected = []
    for one in store.rows(range(len(store))):
        room = 32 - len(data.template) - len(data.hf_tokenizer(one["question"], add_special_tokens=False)["input_ids"])
        coded = data.hf_tokenizer(
            one["question"],
            one["context"],
            truncation="only_second",
            max_length=32,
            stride=room - 5,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        fields = map(coded.sequence_ids, range(len(coded["input_ids"])))
        expected += list(zip(coded["input_ids"], coded["offset_mapping"], fields, strict=True))
    assert found == [ids for ids, _, _ in expected]
    assert (data.hf_tokenizer.padding_side == "left") == (algorithm == "xlnet")
    windows = zip(batch["characters"], batch["document_ids"], expected, strict=True)
    for characters, real, (_, offsets, sequence) in windows:
        theirs = [span if field == 1 else (-1, -1) for span, field in zip(offsets, sequence, strict=True)]
        ours = [tuple(span) for span in characters[real > 0].tolist()]
        if algorithm != "xlnet":  # its spaces belong to the tokens
            assert ours == theirs
        assert [span == (-1, -1) for span in ours] == [span == (-1, -1) for span in theirs]


@pytest.mark.parametrize("algorithm", ["wordpiece", "bpe", "xlnet"])
def test_spans_are_the_answer_wherever_it_stands_whole(tmp_path: Path, algorithm: Algorithm) -> None:
    rows = [row(i, words=40, answer=f"w{i} w{i + 1}") for i in range(30)] + [row(99, words=40, answer=None)]
    data = opened(tmp_path, rows, max_length=32, stride=9, tokenizer_algorithm=algorithm, validation_share=0.1)
    store: Any = data.corpus.train
    batch = data.collate_examples(store, evaluate=True)(pieces_of(data, store))
    assert len(batch["spans"]) == batch["counts"]["span"] > 60
    seen = dict.fromkeys(batch["examples"].tolist(), 0)
    for span, null, characters, ids, example, one in zip(
        batch["spans"].tolist(),
        batch["nulls"].tolist(),
        batch["characters"].tolist(),
        batch["input_ids"].tolist(),
        batch["examples"].tolist(),
        batch["rows"],
        strict=True,
    ):
        begins, ends = ({place[side] for place in characters} for side in (0, 1))
        answers = answers_of(one, "")
        start, end = (answers[0].start, answers[0].start + len(answers[0].text)) if answers else (-9, -9)
        whole = start in begins and end in ends
        assert ids[null] == data.hf_tokenizer.cls_token_id
        if whole:
            assert one["context"][characters[span[0]][0] : characters[span[1]][1]] == answers[0].text
            seen[example] += 1
        else:
            assert span == [null, null]
    texts = dict(zip(batch["examples"].tolist(), batch["rows"], strict=True))
    assert all(count > 0 or not answers_of(texts[example], "") for example, count in seen.items())


def test_a_long_question_is_cut_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [row(i) for i in range(10)]
    rows[3] = row(3, words=40) | {"question": "where " * 50}
    data = opened(tmp_path, rows, max_length=32, validation=[write(tmp_path / "v.jsonl", [row(20)])], test_share=0.0)
    data._say_what_is_cut("train", data.corpus.train)
    half = (32 - len(data.template)) // 2
    assert f"--data.max_length 32: 1 of 10 training questions are cut to {half} tokens" in caplog.text
    store: Any = data.corpus.train
    batch = data.collate_examples(store, evaluate=False)(pieces_of(data, store))
    assert batch["input_ids"].shape[1] == 32


def test_answers_that_cannot_be_learned_or_given_are_counted(tmp_path: Path) -> None:
    rows = [row(i, words=40, answer=f"w{i}") for i in range(20)] + [row(90, words=40, answer=None)]
    rows += [row(i, words=40, answer="w1 w2 w3 w4 w5 w6") for i in (91, 92)]
    rows += [row(93, words=40, answer=" ".join(f"w{i}" for i in range(35)))]
    source = [write(tmp_path / "other.jsonl", [row(99)])]
    data = opened(tmp_path, rows, max_length=32, stride=2, validation=source, test_share=0.0)
    told = list(notes(data._windows(data.corpus.train), "training", longest=5))
    assert [note.partition(";")[0] for note in told] == [
        "--data.stride 2: 1 of 24 training questions have an answer that stands whole in no window, and are taken for "
        "questions without one",
        "--model.max_answer_tokens 5: 3 of 24 training questions have a longer answer",
    ]
    assert not list(notes(data._windows(data.corpus.validation), "validation", longest=5))


@pytest.mark.parametrize("stride", [0, -1, 30])
def test_a_stride_that_leaves_text_out_is_refused(tmp_path: Path, stride: int) -> None:
    with pytest.raises(UserError, match=rf"--data.stride {stride}: a row has room for 29 tokens"):
        opened(tmp_path, [row(i) for i in range(10)], max_length=32, stride=stride)


def test_the_place_of_no_answer() -> None:
    bert = Template(((1,), (2,), (2,)), ((0,), (0,), (1,)), (0, 1), 0, False)
    xlnet = Template(((), (4,), (4, 3)), ((), (0,), (1, 2)), (0, 1), 5, True)
    bare = Template(((), (), ()), ((), (), ()), (0, 0), 0, False)
    assert null_token(bert, 1) == (0, 0)
    assert null_token(xlnet, 3) == (2, 1)
    assert null_token(bert, None) == (0, 0)
    with pytest.raises(UserError, match="no special token"):
        null_token(bare, None)
