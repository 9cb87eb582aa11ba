import ast
import hashlib
import inspect
import subprocess
import sys
import textwrap
from itertools import pairwise
from pathlib import Path

import pytest

from ptm_lightning.data import builtin
from ptm_lightning.data.builtin import BUILTIN, SHORTEST


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    return list(BUILTIN["python"]())


def test_it_is_a_corpus_of_a_few_million_characters(rows: list[dict[str, str]]) -> None:
    assert 1_500_000 < sum(len(row["text"]) for row in rows) < 3_500_000
    assert len(rows) > 4_000


def test_rows_are_alike_and_distinct(rows: list[dict[str, str]]) -> None:
    assert all(row.keys() == {"text", "module", "name"} for row in rows)
    assert len({row["text"] for row in rows}) == len(rows)
    assert all(row["name"].split(".")[0] == row["module"] for row in rows)
    assert all(len(row["text"]) >= SHORTEST and row["text"] == row["text"].strip() for row in rows)


def test_left_out_are_tests_and_bundled_programs(rows: list[dict[str, str]]) -> None:
    assert not {"test", "idlelib", "lib2to3", "turtledemo", "ensurepip", "pip", "encodings"} & {
        r["module"] for r in rows
    }
    assert not [row["name"] for row in rows if ".tests." in row["name"]]


def test_docstrings_are_those_that_python_shows(rows: list[dict[str, str]]) -> None:
    of = {row["name"]: row["text"] for row in rows}
    for name, thing in {"textwrap.wrap": textwrap.wrap, "textwrap.TextWrapper": textwrap.TextWrapper}.items():
        assert of[name] == (inspect.getdoc(thing) or "").strip()


def test_topics_lose_their_underlines_only(rows: list[dict[str, str]]) -> None:
    from pydoc_data.topics import topics

    of = {row["name"]: row["text"] for row in rows}
    kept = [line for line in topics["assert"].strip().splitlines() if line != "*" * len(line) or not line]
    assert of["pydoc_data.topics.assert"].splitlines() == kept
    assert len(kept) == len(topics["assert"].strip().splitlines()) - 1


def test_the_same_rows_in_another_process(rows: list[dict[str, str]]) -> None:
    code = (
        "import sys, hashlib; from ptm_lightning.data.builtin import BUILTIN;"
        "rows = list(BUILTIN['python']());"
        "assert not {'torch', 'numpy', 'antigravity', 'turtle', 'tkinter'} & sys.modules.keys();"
        "print(hashlib.sha256(repr(rows).encode()).hexdigest())"
    )
    said = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)

    assert said.stdout.strip() == hashlib.sha256(repr(rows).encode()).hexdigest()
    assert said.stderr == ""


def test_members_are_found_in_classes_and_under_conditions(tmp_path: Path) -> None:
    long = "A sentence that is long enough to be taken as a document."
    folder = tmp_path / "pack"
    folder.mkdir()
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "left_out.py").write_text(f'"""{long} Left out."""\n')
    (folder / "__init__.py").write_text(f'"""{long} 1"""\n')
    (folder / "a.py").write_text(
        f'"""short"""\nclass C:\n    """{long} 2"""\n'
        f'    async def m(self):\n        """{long} 3\n\n        less\n            more\n        """\n'
        f'        def inner():\n            """{long} Not a member."""\n'
        f'if 1:\n    def f():\n        r"""{long} 4 \\d"""\nelse:\n    def f():\n        "{long} 5"\n'
        f'try:\n    x = "\\d"\nexcept OSError:\n    def g():\n        """{long} 6"""\n'
    )
    found = [(row["module"], row["name"], row["text"]) for row in builtin._standard_library(tmp_path)]
    assert found == [
        ("pack", "pack", f"{long} 1"),
        ("pack", "pack.a.C", f"{long} 2"),
        ("pack", "pack.a.C.m", f"{long} 3\n\nless\n    more"),
        ("pack", "pack.a.f", f"{long} 4 \\d"),
        ("pack", "pack.a.f", f"{long} 5"),
        ("pack", "pack.a.g", f"{long} 6"),
    ]


def test_a_docstring_is_never_lost_to_the_walk(rows: list[dict[str, str]]) -> None:
    """Against a plain walk over every node: all docstrings but those inside functions."""

    tree = ast.parse(Path(textwrap.__file__).read_bytes())
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    naive = {ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds)}
    mine = {row["text"] for row in rows if row["module"] == "textwrap"}
    assert mine == {text.strip() for text in naive if text and len(text) >= SHORTEST}


def test_questions_are_answered_by_their_contexts_or_not_at_all() -> None:
    questions = list(BUILTIN["questions"]())
    assert 2_000 < len(questions) < 4_000
    assert len({row["context"] for row in questions}) == len(questions)
    without = [row for row in questions if not row["answers"]["text"]]
    assert len(questions) / 4 < len(without) <= len(questions) / 3 + 1
    assert not [row for row in without if "return" in row["context"].lower()]
    for row in questions:
        assert row["question"] == f"What does {row['id']} return?"
        for text, start in zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True):
            assert row["context"][start : start + len(text)] == text
            assert row["context"][:start].rstrip().lower().endswith(("return", "returns"))
    lengths = next(row for row in questions if row["id"] == "textwrap.wrap")
    assert lengths["answers"]["text"] == ["a list of wrapped lines"]


def test_entities_are_tagged_by_rule() -> None:
    rows = list(BUILTIN["entities"]())
    assert len(rows) > 4_000
    assert all(len(row["tokens"]) == len(row["tags"]) > 0 for row in rows)
    kinds = {tag for row in rows for tag in row["tags"]}
    assert {tag for tag in kinds if tag[0] == "B"} == {"B-call", "B-error", "B-constant", "B-number"}
    pairs = [pair for row in rows for pair in pairwise([("", "O"), *zip(row["tokens"], row["tags"], strict=True)])]
    assert all(before[1][2:] == after[1][2:] for before, after in pairs if after[1][0] == "I")
    assert all((tag == "B-constant") == (token in ("None", "True", "False")) for _, (token, tag) in pairs)


def test_summaries_are_first_lines_of_docstrings(rows: list[dict[str, str]]) -> None:
    texts = {(row["name"], " ".join(row["text"].split())) for row in rows}  # a name may be defined twice
    summaries = list(BUILTIN["summaries"]())
    assert len(summaries) > 1_000
    for row in summaries:
        assert (row["name"], " ".join(f"{row['summary']} {row['document']}".split())) in texts
        assert "\n" not in row["summary"]
        assert not row["name"].startswith("pydoc_data")
