"""Class attributes as arguments: what a task or data module declares is its signature and its command line."""

from dataclasses import dataclass


def declare_arguments(cls: type) -> None:
    """Makes a class's annotated attributes its keyword arguments, with the string below each as its help.

    Lightning's modules are hashed by identity, hence no generated `__eq__`. A class with its own `__init__` keeps it.

    Args:
        cls: The class, changed in place.
    """
    dataclass(eq=False, repr=False, kw_only=True, init="__init__" not in cls.__dict__)(cls)
