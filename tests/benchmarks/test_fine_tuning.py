import json
from pathlib import Path

import evidence
import fine_tuning
import pytest

from ptm_lightning.__main__ import main
from ptm_lightning.errors import UserError

TEXTS = {"north": "snow and ice on the cold sea", "south": "sand and sun in the warm desert"}


def test_logistic_regression_tells_words_apart() -> None:
    rows = [{"text": f"{text} {i}", "label": label} for i in range(4) for label, text in TEXTS.items()]
    assert fine_tuning.tfidf(rows, rows) == {"accuracy": 1.0, "f1_macro": 1.0}


def test_the_first_sentence_is_no_answer_where_there_is_none() -> None:
    rows = [
        {"context": "A cat. It sleeps.", "question": "Who?", "answers": {"text": ["the cat"]}},
        {"context": "A cat. It sleeps.", "question": "What does it do?", "answers": {"text": ["It sleeps", "sleeps"]}},
        {"context": "A cat. It sleeps.", "question": "Where?", "answers": {"text": []}},
        {"context": "Two cats. They eat.", "question": "Who?", "answers": {"text": ["cats"]}},
    ]
    found = fine_tuning.first_sentence([], rows)
    assert found == {"exact_match": 25.0, "f1": pytest.approx(100 * (1 + 0 + 0 + 2 / 3) / 4)}


def test_the_first_sentence_sums_up() -> None:
    rows = [{"document": "A fast parser. It reads files.", "summary": "a fast parser"}]
    assert fine_tuning.lead_sentence([], rows)["rouge1"] == 1.0


def test_a_missing_split_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--splits: .* has no sections.train.jsonl or .jsonl.gz"):
        fine_tuning.split_file(tmp_path, "sections", "train")


def test_a_whole_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ptm(*arguments: str) -> None:
        assert main(arguments) == 0

    for module in (evidence, fine_tuning):
        monkeypatch.setattr(module, "ptm", ptm)
    for number, split in enumerate(fine_tuning.SPLITS):
        rows = [
            {"text": f"{text} {10 * number + i}", "label": label} for i in range(8) for label, text in TEXTS.items()
        ]
        (tmp_path / f"sections.{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = {
        "splits": str(tmp_path),
        "results": str(tmp_path / "results.jsonl"),
        "run_dir": str(tmp_path / "run"),
        "model.size": "tiny",
        "data.vocab_size": "60",
        "trainer.max_epochs": "1",
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", value)]
    assert fine_tuning.main(["sections", *words]) == 0
    (line,) = (tmp_path / "results.jsonl").read_text().splitlines()
    found = json.loads(line)
    assert found["metrics"]["accuracy"]["baseline"] == 1.0
    assert len(found["answers"]) == fine_tuning.SHOWN
    assert {answer["prediction"] for answer in found["answers"]} <= set(TEXTS)
    assert "  label: north" in capsys.readouterr().out
    assert fine_tuning.main(["table", "--results", flags["results"]]) == 0
    assert "sections  accuracy" in capsys.readouterr().out
