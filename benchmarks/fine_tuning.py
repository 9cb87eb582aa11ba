"""Fine-tunes on the splits of a data set by the real command line, and sets the test scores beside simple methods.

    python benchmarks/fine_tuning.py sections --splits DIR --results evidence.jsonl --init_from RUN_OR_FOLDER
    python benchmarks/fine_tuning.py table --results evidence.jsonl

The folder holds NAME.train, NAME.validation and NAME.test, each .jsonl or .jsonl.gz. What stands behind the known flags
goes to `fit`. Interrupted, by Ctrl-C or otherwise, the same command goes on with `fit --resume`. The results get one
line when the run is finished and tested; `table` prints the newest of each.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evidence import keep, parser_of, print_newest, print_table, ptm, run_dir_of, train

from ptm_lightning.data.sources import read, resolve
from ptm_lightning.environment import environment
from ptm_lightning.errors import UserError
from ptm_lightning.log import set_up_logging
from ptm_lightning.metrics.question_answering import Answered, answer_scores
from ptm_lightning.metrics.rouge import lead, rouge_scores
from ptm_lightning.plugins import load_plugins
from ptm_lightning.scores import Evaluated

SPLITS = ("train", "validation", "test")
SHOWN = 10
"""Predictions."""

Row = Mapping[str, Any]
Scores = dict[str, float]


def tfidf(train: Iterable[Row], test: Sequence[Row]) -> Scores:
    """Logistic regression on TF-IDF of words and pairs of words."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # type: ignore[import-untyped]
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
    from sklearn.metrics import accuracy_score, f1_score  # type: ignore[import-untyped]
    from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]

    classify = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True), LogisticRegression(C=10, max_iter=300)
    )
    classify.fit(*zip(*((row["text"], row["label"]) for row in train), strict=True))
    found, right = classify.predict([row["text"] for row in test]), [row["label"] for row in test]
    return {"accuracy": float(accuracy_score(right, found)), "f1_macro": float(f1_score(right, found, average="macro"))}


def first_sentence(train: Iterable[Row], test: Sequence[Row]) -> Scores:
    """The context's first sentence as the answer to every question, by the rules of SQuAD's scripts, in percent."""
    answered = [Answered(row["answers"]["text"], lead(row["context"], 1), 0.0) for row in test]
    found = answer_scores(answered, None, "words")
    return {name: found[name] for name in ("exact_match", "f1")}


def lead_sentence(train: Iterable[Row], test: Sequence[Row]) -> Scores:
    """The document's first sentence as its summary."""
    return rouge_scores([lead(row["document"], 1) for row in test], [row["summary"] for row in test])


@dataclass(frozen=True)
class Experiment:
    """A data set's task."""

    config: str
    """The preset."""
    required: tuple[str, ...]
    """Columns."""
    baseline: Callable[[Iterable[Row], Sequence[Row]], Scores] | None
    """Scores of a simple method, of training and test rows; None where the task's own metrics have one."""


EXPERIMENTS = {
    "sections": Experiment("classification", ("text",), tfidf),
    "questions": Experiment("question_answering", ("question", "context"), first_sentence),
    "summaries": Experiment("summarization", ("document", "summary"), lead_sentence),
    "en-de": Experiment("translation", ("en", "de"), None),
}


def split_file(folder: Path, name: str, split: str) -> Path:
    """The file of a split.

    Raises:
        UserError: It isn't there.
    """
    found = [path for end in ("", ".gz") if (path := folder / f"{name}.{split}.jsonl{end}").exists()]
    if not found:
        raise UserError(f"--splits: {folder} has no {name}.{split}.jsonl or .jsonl.gz")
    return found[0]


def rows_of(path: Path, experiment: Experiment) -> Iterator[Row]:
    """The rows of a file, as they are asked for."""
    (source,) = resolve([str(path)], "--splits")
    return read(source, "--splits", required=experiment.required)


def result(name: str, command: Sequence[str], files: Mapping[str, Path], run_dir: Path) -> dict[str, Any]:
    """Tests a finished run, and gives what it has to show."""
    ptm("test", "--run_dir", str(run_dir))
    evaluated = Evaluated.read(run_dir, "test")
    assert evaluated is not None
    experiment = EXPERIMENTS[name]
    test_rows = list(rows_of(files["test"], experiment))
    known = experiment.baseline(rows_of(files["train"], experiment), test_rows) if experiment.baseline else {}
    scores = {key.removeprefix("test/"): value for key, value in sorted(evaluated.metrics.items())}
    return {
        "experiment": name,
        "command": ["python", "-m", "ptm_lightning", *command],
        "versions": environment(),
        "checkpoint": evaluated.checkpoint,
        "metrics": {key: {"start": None, "end": value, "baseline": known.get(key)} for key, value in scores.items()},
        "answers": answers(test_rows, run_dir),
    }


def answers(rows: Sequence[Row], run_dir: Path) -> list[dict[str, Any]]:
    """Some rows, evenly spread, with what the best model predicts for them."""
    shown = rows[:: max(1, len(rows) // SHOWN)][:SHOWN]
    asked, output = run_dir / "shown.jsonl", run_dir / "answers.jsonl"
    asked.write_text("".join(json.dumps(row) + "\n" for row in shown), encoding="utf-8")
    output.unlink(missing_ok=True)  # or predict would go on behind its last line
    ptm("predict", "--run_dir", str(run_dir), "--data.predict", str(asked), "--output", str(output))
    found = map(json.loads, output.read_text(encoding="utf-8").splitlines())
    return [{"row": row, "prediction": line["prediction"]} for row, line in zip(shown, found, strict=True)]


def print_result(found: dict[str, Any]) -> None:
    """The scores of one experiment, and what its model predicts."""
    print_table([found])
    for answer in found["answers"]:
        print("\n" + "\n".join(f"  {name}: {value}" for name, value in answer["row"].items()))
        print(f"  -> {answer['prediction']}")


def main(given: Sequence[str] | None = None) -> int:
    """Runs one experiment, or prints the results of all."""
    parser = parser_of(__doc__, [*EXPERIMENTS])
    parser.add_argument("--splits", type=Path, metavar="DIR", help="the folder of the data set's files")
    own, more = parser.parse_known_args(given)
    if own.name == "table":
        print_newest(own.results, EXPERIMENTS)
        return 0
    if own.splits is None:
        parser.error("--splits is needed: the folder of the data set's files")
    run_dir = run_dir_of(own)
    set_up_logging()
    load_plugins()
    files = {split: split_file(own.splits, own.name, split) for split in SPLITS}
    sources = [word for split, path in files.items() for word in (f"--data.{split}", str(path))]
    command = ["fit", "--config", EXPERIMENTS[own.name].config, *sources, *more]
    train(command, run_dir)
    found = result(own.name, command, files, run_dir)
    keep(own.results, found)
    print_result(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
