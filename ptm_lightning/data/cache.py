"""Where tokens and tokenizers are kept between runs."""

import os
from pathlib import Path


def cache_folder(given: str | None) -> Path:
    """The folder asked for, or $PTM_CACHE, or ptm_lightning in the user's cache folder."""
    if chosen := given or os.environ.get("PTM_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "ptm_lightning"
