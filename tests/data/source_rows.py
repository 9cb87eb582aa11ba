"""The rows of a source, and their texts."""

from typing import Any

from ptm_lightning.data.sources import Row, read, resolve

FLAG = "--data.train"


def rows_of(name: object, **settings: Any) -> list[Row]:
    (source,) = resolve([str(name)], FLAG)
    return list(read(source, FLAG, **settings))


def texts_of(name: object, **settings: Any) -> list[str]:
    return [row["text"] for row in rows_of(name, **settings)]
