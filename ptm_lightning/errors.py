"""One kind of error for a user's mistakes, and the nearest right name for a wrong one."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "dict": "names with values",
    "tuple": "a number for each",
}
"""Of arguments, in words."""


class UserError(ValueError):
    """A mistake of the user's. The message names the flag, file or line, and the fix.

    The command line prints it as one line and exits with status 2; from Python it is a ValueError.
    """


def suggest(name: str, known: Iterable[str]) -> str:
    """The nearest known name as a question, or all of them.

    Args:
        name: What the user wrote.
        known: The names there are.

    Returns:
        "did you mean 'size'?" or "known: a, b, c".
    """
    names = sorted(known)
    nearest = get_close_matches(name, names, n=1)
    return f"did you mean '{nearest[0]}'?" if nearest else f"known: {', '.join(names)}"


def readable(message: str) -> str:
    """What jsonargparse says in many lines, in one: the flag, the value, and what to give instead."""
    key = re.search(r'(?:Parser key|Option) "([\w.]+)"', message)
    value = re.search(r"(?:Given|Got) value: (.*)\s*\Z", message)
    if key is None or value is None:
        return " ".join(message.split())
    start = f"--{key[1]} {value[1]}:"
    if "import path" in message:
        return f"{start} no such class (python -m ptm_lightning list)"
    wanted = []
    for kind, names in re.findall(r"Expected an? (?:<class '(\w+)'>|typing\.Literal\[(.*?)\])", message):
        if kind != "NoneType":
            wanted.append(names.replace("'", "") if names else TYPES.get(kind, f"a {kind}"))
    return f"{start} give {' or '.join(wanted)}"
