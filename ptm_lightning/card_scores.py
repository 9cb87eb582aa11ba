"""The scores that a run has been evaluated with, on the model card of its exported model."""

import json
import re
from pathlib import Path

from ptm_lightning.export import MARKER
from ptm_lightning.files import atomic
from ptm_lightning.log import say
from ptm_lightning.model_card import HELD_OUT, table
from ptm_lightning.scores import SPLITS, Evaluated, Split

COMMANDS: dict[Split, str] = {"val": "validate", "test": "test"}
"""What evaluates a split."""


def show_scores(run: Path, model: Path) -> None:
    """Puts the scores that a run keeps of a checkpoint on the model card of that checkpoint's export.

    Nothing happens without such an export or without its card. One that can't be written is said, and left as it is.

    Args:
        run: The run folder.
        model: The exported folder.
    """
    card = model / "README.md"
    if not card.exists() or not (model / MARKER).exists():
        return
    checkpoint = json.loads((model / MARKER).read_text())["checkpoint"]
    before = text = card.read_bytes().decode(errors="surrogateescape")  # as the user may have left it, to the byte
    for split in SPLITS:
        kept = Evaluated.read(run, split)
        if kept is not None and kept.checkpoint == checkpoint:
            text = with_scores(text, kept)
    if text == before:
        return
    try:
        atomic(card, lambda file: file.write(text.encode(errors="surrogateescape")))
    except OSError as error:
        say(f"{card}: the scores can't be written there ({error.strerror}); the card stays as it was")


def with_scores(card: str, evaluated: Evaluated) -> str:
    """A model card with the scores of an evaluation, in the place of earlier ones of its split or below the metrics.

    Args:
        card: As it was exported, and perhaps edited since.
        evaluated: Its metrics and what they were measured on.
    """
    command = COMMANDS[evaluated.split]
    begin, end = f"<!-- {command}: written anew each time -->", f"<!-- end of {command} -->"
    told = {"data": evaluated.sources or HELD_OUT, "documents": evaluated.documents}
    scores = {name: f"{value:.4f}" for name, value in sorted(evaluated.metrics.items())}
    block = f"{begin}\nAs `{command}` measures:\n\n{table(told | scores)}\n{end}"
    # The last beginning before an end: what stands between two beginnings is the user's.
    earlier = re.search(f"{re.escape(begin)}(?:(?!{re.escape(begin)}).)*?{re.escape(end)}", card, re.DOTALL)
    if earlier:
        return card[: earlier.start()] + block + card[earlier.end() :]
    metrics = re.search(r"^## Metrics\b.*?(?=^## |\Z)", card, re.DOTALL | re.MULTILINE)
    place = metrics.end() if metrics else len(card)
    before, after = card[:place], card[place:]
    return f"{before}{block}\n\n{after}" if after else f"{before}\n{block}\n"
