"""Numbers as people read them."""


def compact(number: float, space: str = " ") -> str:
    """A count with three digits and a letter for thousands, millions and so on.

    Args:
        number: Not negative.
        space: What stands before the letter.

    Returns:
        "950", "11.2 k", "224 M", "1.30 G".
    """
    for letter in ("", "k", "M", "G", "T"):
        if number < 999.5 or letter == "T":
            break
        number /= 1000
    if not letter:
        return f"{number:.0f}"
    digits = 2 if number < 9.995 else 1 if number < 99.95 else 0
    return f"{number:.{digits}f}{space}{letter}"


def duration(seconds: float) -> str:
    """A time with its two largest units.

    Args:
        seconds: Not negative.

    Returns:
        "45s", "3m20s", "2h14m", "3d04h".
    """
    left = round(seconds)
    if left < 60:
        return f"{left}s"
    if left < 3600:
        return f"{left // 60}m{left % 60:02d}s"
    if left < 86400:
        return f"{left // 3600}h{left % 3600 // 60:02d}m"
    return f"{left // 86400}d{left % 86400 // 3600:02d}h"
