"""Other rows and texts to evaluate a run on, through the command line: what it was trained on stays as it was."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_run import fit
from row_files import write

from ptm_lightning.__main__ import main
from ptm_lightning.data import examples
from ptm_lightning.scores import Evaluated, Split
from ptm_lightning.testing_case import tiny
from ptm_lightning.testing_texts import example

SIZE = [f"--model.overrides={json.dumps(tiny('bert'))}", "--data.vocab_size=300", "--data.max_length=24"]
ROWS = [example(i) for i in range(80)]
OTHER = [example(i) for i in range(200, 240)]
COMMANDS = {"validation": "validate", "test": "test"}


@pytest.fixture(params=["held out", "own"])
def run(request: pytest.FixtureRequest, here: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A run whose rows to evaluate are of the training sources, or of their own; the names of the stores written."""
    monkeypatch.setenv("PTM_CACHE", str(here / "cache"))
    sources = [f"--data.train={write(here / 'train.jsonl', ROWS)}"]
    if request.param == "own":
        own = {"validation": OTHER[:10], "test": OTHER[10:]}
        sources += [f"--data.{split}={write(here / f'{split}.jsonl', rows)}" for split, rows in own.items()]
    short = ["--trainer.max_steps=2", "--trainer.accelerator=cpu"]
    assert main(["fit", "--config=classification", *SIZE, *sources, *short, "--run_dir=run"]) == 0
    written: list[str] = []
    write_examples = examples.write_examples

    def noting(rows: Any, encode: Any, tokenizer: Any, folder: Path) -> Any:
        written.append(folder.name)
        return write_examples(rows, encode, tokenizer, folder)

    monkeypatch.setattr(examples, "write_examples", noting)
    return written


def evaluated(split: str, *flags: str) -> Evaluated:
    assert main([COMMANDS[split], "--run_dir=run", *flags]) == 0
    name: Split = "test" if split == "test" else "val"
    found = Evaluated.read(Path("run"), name)
    assert found is not None
    return found


def rows_of(split: str) -> list[dict[str, Any]]:
    """The rows of a split of the run, which is in the cache."""
    (store,) = {path.parent for path in Path("cache/examples").glob(f"*/{split}/info.json")}
    return [json.loads(line) for line in (store / "rows.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_runs_own_rows_in_another_file_are_scored_alike(
    run: list[str], split: str, caplog: pytest.LogCaptureFixture
):
    before = evaluated(split)
    assert run == []
    again = write(Path("again.jsonl"), rows_of(split)[::-1])
    caplog.clear()
    after = evaluated(split, f"--data.{split}={again}")
    assert run == [split]
    assert "rows whose text occurs before" not in caplog.text
    baselines = {name for name in before.metrics if name.endswith("_majority")}
    assert baselines
    assert after.metrics == pytest.approx(before.metrics)
    assert {name: after.metrics[name] for name in baselines} == {name: before.metrics[name] for name in baselines}


def test_new_rows_alone_are_tokenized_and_those_in_training_are_said(run: list[str], caplog: pytest.LogCaptureFixture):
    new = [{"text": f"a new text {n}", "label": row["label"]} for n, row in enumerate(OTHER)]
    seen = [row for row in ROWS if row in rows_of("train")][:3]
    flag = f"--data.test={write(Path('new.jsonl'), [*new, *seen])}"
    for said in range(1, 3):
        assert evaluated("test", flag).documents == len(OTHER) + 3
        assert caplog.text.count("rows whose text occurs before: 3 test in train") == said
    assert run == ["test"]


def test_new_rows_are_checked_against_the_labels_of_training(run: list[str], capsys: pytest.CaptureFixture[str]):
    flag = f"--data.test={write(Path('new.jsonl'), [*OTHER, {'text': 'moo', 'label': 'cow'}])}"
    assert main(["test", "--run_dir=run", flag]) == 2
    assert "new.jsonl:41: the label 'cow' doesn't occur in training" in capsys.readouterr().err
    assert run == []


def test_a_run_goes_on_with_the_rows_that_it_holds_out(run: list[str], capsys: pytest.CaptureFixture[str]):
    own = Path("test.jsonl").exists()
    new = write(Path("new.jsonl"), OTHER)
    assert main(["fit", "--resume=run", f"--data.test={new}", "--trainer.max_steps=3"]) == (0 if own else 2)
    assert run == (["test"] if own else [])
    assert own or f"--data.test: ['{new}'] now, None in run; leave it out to go on" in capsys.readouterr().err


PARTS = {"words": {"task": "MaskedLM", "masking": "word"}, "own": {"task": "MaskedLM", "train": ["other.txt"]}}


@pytest.mark.parametrize(("model", "stores"), [("MaskedLM", 1), ("Mixture", 2)])
def test_other_text_alone_is_tokenized(
    model: str, stores: int, here: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PTM_CACHE", str(here / "cache"))
    for name in ("other.txt", "new.txt"):
        (here / name).write_text("\n\n".join(f"Sheep {i} sees wolves in {name}." for i in range(90)))
    (here / "parts.yaml").write_text(yaml.safe_dump({"data": {"parts": PARTS}} if stores > 1 else {}))
    assert fit(corpus, f"--model={model}", "--config=parts.yaml", "--trainer.max_steps=1", "--run_dir=run") == 0
    tokens = here / "cache" / "tokens"
    trained_on = {path for path in tokens.iterdir() if path.is_dir()}
    assert len(trained_on) == stores
    assert main(["validate", "--run_dir=run", "--data.validation=new.txt"]) == 0
    (new,) = {path for path in tokens.iterdir() if path.is_dir()} - trained_on
    assert json.loads((new / "info.json").read_text())["documents"] == 90
