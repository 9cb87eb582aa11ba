"""Right answers: one for each example, or several, of which none is better than the others."""

from collections.abc import Sequence

Reference = str | Sequence[str]
"""A right answer, or several."""


def references_of(reference: Reference) -> list[str]:
    """All of them that have text, or else one that has none."""
    every = [reference] if isinstance(reference, str) else reference
    return [text for text in every if text.strip()] or [""]


def streams(references: Sequence[Reference]) -> list[list[str | None]]:
    """The first reference of each example, the second ones, and so on, as sacrebleu takes them: None where none is.

    Args:
        references: (n,)
    """
    every = [references_of(reference) for reference in references]
    most = max(map(len, every))
    return [[texts[place] if place < len(texts) else None for texts in every] for place in range(most)]
