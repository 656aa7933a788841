"""Names for what settings choose among: update rules, loss terms, augmentations."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")


class Registry(dict[str, T]):
    """Choices by name. what: one of them, for errors: `loss term`."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def register(self, name: str, choice: T) -> T:
        """Add a choice and return it. Raises ValueError for a name that is taken or that no setting could have."""
        if not (isinstance(name, str) and name.isidentifier()):
            raise ValueError(f"{self.what}: expected a name of letters, digits and _, got {name!r}")
        if name in self:
            raise ValueError(f"{self.what} {name!r}: expected a new name, got one that is taken")
        self[name] = choice
        return choice
