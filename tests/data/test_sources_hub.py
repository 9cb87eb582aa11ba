"""Data sets of the hub: their rows, the names of their labels, and what is said when it can't be reached."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from source_rows import rows_of

from ptm_lightning.data.sources import Row
from ptm_lightning.errors import UserError


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A stand-in for the data sets library, which takes seconds to import."""

    class DatasetNotFoundError(FileNotFoundError):
        pass

    def load_dataset(*names: str | None, split: str) -> list[Row]:
        fake.asked = (*names, split)
        if isinstance(fake.answer, Exception):
            raise fake.answer
        return fake.answer

    fake = SimpleNamespace(
        load_dataset=load_dataset, exceptions=SimpleNamespace(DatasetNotFoundError=DatasetNotFoundError), answer=[]
    )
    monkeypatch.setitem(sys.modules, "datasets", fake)
    return fake


def test_a_data_set_of_the_hub_gives_rows(hub: SimpleNamespace, here: Path) -> None:
    hub.answer = [{"body": "a", "label": 1}, {"body": "", "label": 0}]
    assert rows_of("owner/name:en", columns={"text": "body"}, hub_split="test") == [{"text": "a", "label": 1}]
    assert hub.asked == ("owner/name", "en", "test")
    rows_of("imdb", required=())
    assert hub.asked == ("imdb", None, "train")
    with pytest.raises(UserError) as error:
        rows_of("imdb")
    assert str(error.value) == (
        "--data.train: imdb: row 1: no column 'text'; the columns are body, label; "
        "name yours with --data.columns.text=body"
    )


FEATURES = {
    "text": {"dtype": "string", "_type": "Value"},
    "label": {"names": ["bad", "good"], "_type": "ClassLabel"},
    "tags": {"feature": {"names": ["O", "B-x"], "_type": "ClassLabel"}, "_type": "List"},
}
NUMBERED = [{"text": "a", "label": 1, "tags": [0, 1]}, {"text": "b", "label": -1, "tags": []}]
NAMED = [{"text": "a", "label": "good", "tags": ["O", "B-x"]}, {"text": "b", "label": None, "tags": []}]


def test_labels_of_the_hub_have_their_names(hub: SimpleNamespace, here: Path) -> None:
    class Rows(list[Row]):
        features = SimpleNamespace(to_dict=lambda: FEATURES)

    hub.answer = Rows(NUMBERED)
    assert rows_of("owner/name") == NAMED


def test_labels_of_parquet_files_have_the_names_in_their_metadata(here: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pa.Table.from_pylist(NUMBERED)
    pq.write_table(table, "bare.parquet")
    pq.write_table(table.replace_schema_metadata({"huggingface": '{"info": {}}'}), "none.parquet")
    told = {"huggingface": json.dumps({"info": {"features": FEATURES}})}
    pq.write_table(table.replace_schema_metadata(told), "named.parquet")
    found = [rows_of(f"{name}.parquet") for name in ("bare", "none", "named")]
    assert found == [NUMBERED, NUMBERED, NAMED]


def test_failures_of_the_hub_say_what_to_do(hub: SimpleNamespace, here: Path) -> None:
    missing = hub.exceptions.DatasetNotFoundError("doesn't exist")
    said = []
    for answer in (missing, ConnectionError("no route"), ValueError("Config name is missing.\nPick one"), OSError()):
        hub.answer = answer
        with pytest.raises(UserError) as error:
            rows_of("corpsu")
        said.append(str(error.value))
    assert said == [
        "--data.train: no file and no data set on the hub is called 'corpsu'; "
        "check the name, and log in with hf auth login if it is private",
        "--data.train: 'corpsu' is no file here, and the hub can't be reached for it; "
        "connect, or download it elsewhere and give its files",
        "--data.train: the data set 'corpsu' of the hub can't be loaded: Config name is missing.",
        "--data.train: the data set 'corpsu' of the hub can't be loaded: OSError",
    ]
    (here / "corpus").mkdir()
    for answer in (missing, ConnectionError()):
        hub.answer = answer
        with pytest.raises(UserError, match=r"; did you mean the file 'corpus'\?$"):
            rows_of("corpsu")


def test_the_real_library_offline_is_understood(here: Path) -> None:
    """The exceptions that the stand-in above imitates are those of the installed library."""
    code = (
        "from ptm_lightning.data.sources import *\n"
        "try: list(read(resolve(['nobody/nothing'], '--data.train')[0], '--data.train'))\n"
        "except ValueError as error: print(error)\n"
        "import datasets; print(datasets.exceptions.DatasetNotFoundError.__name__)\n"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(here)}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert said.stdout.splitlines() == [
        "--data.train: 'nobody/nothing' is no file here, and the hub can't be reached for it; "
        "connect, or download it elsewhere and give its files",
        "DatasetNotFoundError",
    ]
