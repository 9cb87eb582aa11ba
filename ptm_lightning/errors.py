"""One kind of error for a user's mistakes, and the nearest right name for a wrong one."""

from collections.abc import Iterable
from difflib import get_close_matches


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
