"""Text that every Python carries, so that a first run needs neither files nor a network."""

import ast
import os
import re
import sysconfig
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib import import_module
from itertools import chain
from pathlib import Path

from ptm_lightning.data.formats import Row

SHORTEST = 40
"""Docstrings below this many characters are names in other words, not text."""
MODULES = 12
"""Labels of the built-in example for classification."""
LONGEST = 1500
"""Characters of a docstring in the one for question answering: a first run shall take a minute."""
LONGEST_SUMMARIZED = 500
"""The same in the one for summarization."""
NO_ANSWER: Row = {"text": [], "answer_start": []}

RETURNED = re.compile(r"\b[Rr]eturns?\s+(?=\w)([^.;:,]{3,100}?)(?=[.;:,]|\n\n|\Z)")
"""What a docstring says that something returns, as far as the first punctuation."""

NAME = re.compile(
    r"(?P<call>\b[A-Za-z_][\w.]*(?=\())|(?P<error>\b[\w.]*[A-Z]\w*(?:Error|Exception|Warning)\b)"
    r"|(?P<constant>\b(?:None|True|False)\b)|(?P<number>\b\d+(?:\.\d+)?\b)|(?P<other>\w+|[^\w\s])"
)
"""What the built-in example for token classification tags, and all other words."""

# Tests, bundled programs and foreign packages; `encodings` holds a hundred copies of one docstring.
SKIPPED_FOLDERS = re.compile(
    "tests?|idlelib|lib2to3|turtledemo|ensurepip|pip|site-packages|dist-packages|lib-dynload|encodings|pydoc_data"
)
DOCUMENTED = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
UNDERLINE = re.compile(r"^([*=~^\"-])\1{2,}\n", re.MULTILINE)


def _topics() -> Iterator[Row]:
    """The language reference, one document a topic, without the lines that underline its headings."""
    topics: dict[str, str] = import_module("pydoc_data.topics").topics
    for name, text in sorted(topics.items()):
        yield {"text": UNDERLINE.sub("", text).strip(), "module": "pydoc_data", "name": f"pydoc_data.topics.{name}"}


def _source_files(root: Path) -> Iterator[Path]:
    """The standard library's source files, in a fixed order."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not SKIPPED_FOLDERS.fullmatch(name))
        yield from (Path(folder, name) for name in sorted(names) if name.endswith(".py"))


def _docstrings(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    """(qualified name, docstring) of a module, class or function and of its members; function bodies are skipped."""
    if isinstance(node, (ast.Module, *DOCUMENTED)) and (text := ast.get_docstring(node)):
        yield name, text.strip()
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return
    for block in ("body", "handlers", "orelse", "finalbody"):  # of classes, and of `if` and `try` around definitions
        for child in getattr(node, block, ()):
            inner = f"{name}.{child.name}" if isinstance(child, DOCUMENTED) else name
            yield from _docstrings(child, inner)


def _standard_library(root: Path) -> Iterator[Row]:
    """The docstrings of the standard library, parsed and never imported."""
    for path in _source_files(root):
        parts = path.relative_to(root).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in old modules
            tree = ast.parse(path.read_bytes())
        for name, text in _docstrings(tree, module):
            if len(text) >= SHORTEST:
                yield {"text": text, "module": parts[0], "name": name}


@cache
def _python() -> list[Row]:
    """Kept, for a source is read several times, and parsing takes most of that."""
    rows: dict[str, Row] = {}
    for row in chain(_topics(), _standard_library(Path(sysconfig.get_path("stdlib")))):
        rows.setdefault(row["text"], row)
    return list(rows.values())


def python() -> Iterator[Row]:
    """The language reference and the standard library's docstrings, exact duplicates dropped.

    Returns:
        An iterator of {"text", "module" (the top-level module), "name" (the qualified name)}, in an order that depends
        on the Python version alone.
    """
    return map(dict, _python())


def modules() -> Iterator[Row]:
    """Docstrings of the modules that have most of them, each with its module as the label: to try classification.

    Returns:
        An iterator of {"text", "label", "name"}, in an order that depends on the Python version alone.
    """
    rows = [row for row in python() if row["module"] != "pydoc_data"]
    common = dict(Counter(row["module"] for row in rows).most_common(MODULES))
    for row in rows:
        if row["module"] in common:
            yield {"text": row["text"], "label": row["module"], "name": row["name"]}


def questions() -> Iterator[Row]:
    """What functions and classes return, as a stretch of their docstrings: to try question answering.

    The answers are found by rule and not checked by anyone. For every two questions with an answer there is one at most
    whose docstring says nothing of returning, and that has none.

    Returns:
        An iterator of {"id", "question", "context", "answers" (as in SQuAD)}, in an order that depends on the Python
        version alone.
    """
    answered = unanswered = 0
    for row in python():
        if row["module"] == "pydoc_data" or len(row["text"]) > LONGEST:
            continue
        found = RETURNED.search(row["text"])
        if found is None and ("return" in row["text"].lower() or 2 * unanswered >= answered):
            continue
        answered, unanswered = answered + (found is not None), unanswered + (found is None)
        answers: Row = {"text": [found[1]], "answer_start": [found.start(1)]} if found else NO_ANSWER
        question = f"What does {row['name']} return?"
        yield {"id": row["name"], "question": question, "context": row["text"], "answers": answers}


def entities() -> Iterator[Row]:
    """First paragraphs of docstrings, with names of Python in them tagged: to try token classification.

    The tags are given by rule and not checked by anyone: what is called, what is an error or a warning, constants, and
    numbers.

    Returns:
        An iterator of {"tokens", "tags"}, in an order that depends on the Python version alone.
    """
    for row in python():
        paragraph = row["text"].partition("\n\n")[0]
        kinds: list[str | None] = []
        tokens: list[str] = []
        for found in NAME.finditer(paragraph):
            pieces = re.findall(r"\w+|[^\w\s]", found[0])
            kind = found.lastgroup
            tokens += pieces
            kinds += [f"B-{kind}", *[f"I-{kind}"] * (len(pieces) - 1)] if kind != "other" else ["O"] * len(pieces)
        if row["module"] != "pydoc_data":
            yield {"tokens": tokens, "tags": kinds}


def summaries() -> Iterator[Row]:
    """Docstrings whose first paragraph is one line, which sums up the rest: to try summarization.

    Long ones are left out: they are few, and to learn from them takes as much time as from all others.

    Returns:
        An iterator of {"document", "summary", "name"}, in an order that depends on the Python version alone.
    """
    for row in python():
        summary, _, document = row["text"].partition("\n\n")
        if row["module"] != "pydoc_data" and "\n" not in summary and SHORTEST <= len(document) <= LONGEST_SUMMARIZED:
            yield {"document": document.strip(), "summary": summary, "name": row["name"]}


def number_words() -> Iterator[Row]:
    """English numbers in words and the German ones, made by rule: to try translation.

    Returns:
        An iterator of {"en", "de"}, always the same.
    """
    rows: Iterator[Row] = import_module("ptm_lightning.data.number_words").number_words()  # numpy only if it is needed
    return rows


def conversations() -> Iterator[Row]:
    """Conversations on what number comes next, made by rule: to try dialogue.

    Returns:
        An iterator of {"messages"}, always the same.
    """
    rows: Iterator[Row] = import_module("ptm_lightning.data.counting").conversations()
    return rows


BUILTIN: dict[str, Callable[[], Iterator[Row]]] = {
    "conversations": conversations,
    "entities": entities,
    "modules": modules,
    "number_words": number_words,
    "python": python,
    "questions": questions,
    "summaries": summaries,
}
"""What stands after `builtin:`."""


def described(sources: Iterable[str]) -> dict[str, str]:
    """What the built-in examples among some sources are, in a sentence, by their names.

    Args:
        sources: Names as users write them.
    """
    found = {name: BUILTIN.get(name.removeprefix("builtin:")) for name in sources if name.startswith("builtin:")}
    return {name: (make.__doc__ or "").partition("\n")[0] for name, make in found.items() if make is not None}
