"""Sentences as spaCy finds them, for `--data.sentences`: an extra that must be installed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ptm_lightning.errors import UserError

NOT_NEEDED = ["ner", "tagger", "lemmatizer", "attribute_ruler", "morphologizer", "textcat"]
"""Parts of a pipeline that sentences don't depend on."""
FINDS_SENTENCES = {"parser", "senter", "sentencizer"}
LONGEST = 10**9
"""Characters of a document. spaCy's own limit is for the memory that its parser takes."""


def load_spacy(name: str) -> tuple[str, Callable[[str], list[tuple[int, int]]]]:
    """A pipeline of spaCy.

    Args:
        name: An installed pipeline or its folder, or else a language, whose sentences then end by its punctuation.

    Returns:
        Name and versions, and what finds (start, end) of each sentence in characters.

    Raises:
        UserError: spaCy isn't installed, or doesn't know the name.
    """
    try:
        import spacy  # type: ignore[import-not-found, unused-ignore]  # an extra
    except ImportError as error:
        raise UserError(
            f"--data.sentences {name}: needs spaCy: pip install 'ptm_lightning[spacy]'; or take --data.sentences rules"
        ) from error
    pipeline: Any
    if spacy.util.is_package(name) or Path(name).is_dir():
        pipeline = spacy.load(name, exclude=NOT_NEEDED)
    else:
        try:
            pipeline = spacy.blank(name)
        except ImportError as error:
            raise UserError(
                f"--data.sentences {name}: is neither rules, nor a pipeline that is installed "
                f"(python -m spacy download {name}), nor a language that spaCy knows, such as xx"
            ) from error
    if not FINDS_SENTENCES & set(pipeline.pipe_names):
        pipeline.add_pipe("sentencizer")
    pipeline.max_length = LONGEST

    def spans(text: str) -> list[tuple[int, int]]:
        found = ((sentence.start_char, sentence.end_char) for sentence in pipeline(text).sents)
        return [stripped for start, end in found if (stripped := _stripped(text, start, end))]

    return f"spacy {spacy.__version__} {name} {pipeline.meta.get('version')} {pipeline.pipe_names}", spans


def _stripped(text: str, start: int, end: int) -> tuple[int, int] | None:
    """A span without the white space at its ends; None if nothing is left."""
    inside = text[start:end]
    size = len(inside.strip())
    start += len(inside) - len(inside.lstrip())
    return (start, start + size) if size else None
