"""The example of CONTRIBUTING.md, written to a file outside the project: it keeps the contract and its commands run."""

import gc
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer

from ptm_lightning import testing
from ptm_lightning.__main__ import main
from ptm_lightning.checkpoint import load_checkpoint
from ptm_lightning.plugins import import_file
from ptm_lightning.testing_texts import write_texts

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
EXAMPLE, CHECK = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = re.findall(r"^\$ python -m ptm_lightning (.*)$", TEXT, re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Holds my_task.py and corpus.txt; afterwards its classes are forgotten, for tests that look at all there are."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "my_task.py").write_text(EXAMPLE)
    texts = write_texts(folder / "texts")
    (folder / "corpus.txt").write_text(Path(texts["train"][0]).read_text())
    yield folder
    sys.modules.pop("my_task", None)
    gc.collect()


@pytest.fixture(autouse=True)
def there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PTM_CACHE", str(folder / "cache"))


def run(beginning: str, capsys: pytest.CaptureFixture[str], which: int = 0) -> str:
    """Runs the nth command of CONTRIBUTING.md that begins so, and gives what it prints."""
    command = [command for command in COMMANDS if command.startswith(beginning)][which]
    assert main(shlex.split(command)) == 0, command
    return capsys.readouterr().out


def test_list_shows_it(capsys: pytest.CaptureFixture[str]) -> None:
    listed = run("list", capsys)
    assert re.search(r"ReplacedWords +Tells for each token", listed)
    assert re.search(r"ReplacedWordsData +Text in which random tokens", listed)


def test_help_shows_its_argument(capsys: pytest.CaptureFixture[str]) -> None:
    shown = " ".join(run("fit", capsys, 0).split())
    assert "--data.replace_rate NUMBER Share of the tokens that are replaced. (default: 0.15)" in shown


def test_inspect_prints_batches(capsys: pytest.CaptureFixture[str]) -> None:
    assert "row 0 of the first batch" in run("inspect", capsys)


def test_check_holds_it_to_its_words(capsys: pytest.CaptureFixture[str]) -> None:
    table = run("check", capsys)
    for what in ("tokens that are replaced", "tokens called what they are not", "predictions that see what they may"):
        assert re.search(f"^ok +{what}", table, re.MULTILINE)


def test_check_names_what_the_example_would_do_wrong(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = import_file(Path("my_task.py"))
    right = words.replace_tokens
    monkeypatch.setattr(words, "replace_tokens", lambda *args, **kwargs: right(*args, **kwargs | {"rate": 0.5}))
    command = next(command for command in COMMANDS if command.startswith("check"))
    assert main(shlex.split(command)) == 1
    assert re.search("^FAILED +tokens that are replaced", capsys.readouterr().out, re.MULTILINE)


def test_wrong_value_is_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    flags = "--plugin my_task.py --model ReplacedWords --data.train corpus.txt --data.replace_rate 3"
    assert main(["fit", *flags.split()]) == 2
    assert capsys.readouterr().err.endswith(
        "error: --data.replace_rate 3.0: give a share between 0 and 1, such as 0.15\n"
    )


def test_it_trains_goes_on_and_is_exported(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("fit", capsys, 1)
    state = json.loads((folder / "mine" / "run.json").read_text())
    assert (state["task"], state["state"]) == ("ReplacedWords", "finished")
    run("fit", capsys, 2)
    checkpoint = load_checkpoint(folder / "mine" / "checkpoints" / "step=00000030.ckpt")
    assert checkpoint["global_step"] == 30
    run("export", capsys)
    network = AutoModelForTokenClassification.from_pretrained(folder / "my-model").eval()
    ids = AutoTokenizer.from_pretrained(folder / "my-model")("the cat sees a dog .", return_tensors="pt")
    with torch.inference_mode():
        assert network(**ids).logits.shape == (1, ids["input_ids"].shape[1], 2)


def test_it_keeps_the_contract(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import_file(folder / "my_task.py")
    hold, held = testing._hold, list[tuple[str, testing.Clause]]()

    def noting(clause: testing.Clause, case: testing.Case) -> None:
        hold(clause, case)
        held.append((case.task_class.__name__, clause))

    monkeypatch.setattr(testing, "_hold", noting)
    names: dict[str, object] = {}
    exec(CHECK, names)
    names["test_replaced_words"]()
    assert held == [("ReplacedWords", clause) for clause in testing.CLAUSES]


def test_tour_names_every_module() -> None:
    tour = TEXT[TEXT.index("## A tour") : TEXT.index("## Rules")]
    named = set(re.findall(r"[\w/]+\.py", tour))
    modules = {*(ROOT / "ptm_lightning").rglob("*.py"), *(ROOT / "tasks").glob("*.py")}
    assert {Path(name).name for name in named} == {path.name for path in modules} - {"__init__.py"}
