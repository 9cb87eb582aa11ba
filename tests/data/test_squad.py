"""SQuAD's nested files as rows."""

import json
from pathlib import Path
from typing import Any

import pytest

from ptm_lightning.data.sources import read, resolve
from ptm_lightning.errors import UserError

ARTICLE: dict[str, Any] = {
    "title": "Cats",
    "paragraphs": [
        {
            "context": "A cat sees a dog.",
            "qas": [
                {"id": "1", "question": "Who sees?", "answers": [{"text": "A cat", "answer_start": 0}] * 2},
                {
                    "id": "2",
                    "question": "Who hears?",
                    "is_impossible": True,
                    "answers": [],
                    "plausible_answers": [{"text": "A cat", "answer_start": 0}],
                },
            ],
        },
        {"context": "No answers are known.", "qas": [{"id": "3", "question": "Why?"}]},
    ],
}


def rows(folder: Path, content: str) -> list[dict[str, Any]]:
    path = folder / "squad.json"
    path.write_text(content)
    (source,) = resolve([str(path)], "--data.train")
    return list(read(source, "--data.train", required=("question", "context")))


@pytest.mark.parametrize("indent", [None, 1])
def test_articles_become_questions(tmp_path: Path, indent: int | None) -> None:
    found = rows(tmp_path, json.dumps({"version": "v2.0", "data": [ARTICLE]}, indent=indent))
    first = {"title": "Cats", "context": "A cat sees a dog."}
    assert found == [
        {**first, "id": "1", "question": "Who sees?", "answers": {"text": ["A cat"] * 2, "answer_start": [0, 0]}},
        {**first, "id": "2", "question": "Who hears?", "answers": {"text": [], "answer_start": []}},
        {"title": "Cats", "context": "No answers are known.", "id": "3", "question": "Why?"},
    ]


def test_a_broken_file_is_named_with_its_place(tmp_path: Path) -> None:
    broken = json.loads(json.dumps(ARTICLE))
    del broken["paragraphs"][0]["qas"][1]["question"]
    with pytest.raises(UserError, match=r"squad.json: row 1 paragraph 1 question 2: broken SQuAD data"):
        rows(tmp_path, json.dumps({"data": [broken]}))


def test_other_tables_stay_as_they_are(tmp_path: Path) -> None:
    row = {"question": "Who?", "context": "A cat.", "paragraphs": "none"}
    assert rows(tmp_path, json.dumps({"data": [row]})) == [row]
