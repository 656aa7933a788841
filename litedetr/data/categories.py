"""The exact map between a data set's category ids and contiguous class labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from litedetr.data.errors import DataError
from litedetr.settings import ConfigError


@dataclass(frozen=True)
class Categories:
    """Classes in label order: label k in [0, K) has the name `names[k]` and the raw category id `ids[k]`.

    Ids may be any integers; labels follow ascending ids.
    """

    names: tuple[str, ...]
    ids: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.ids or len(self.ids) != len(self.names):
            raise ValueError(f"categories need as many names as ids, at least one: {self.names}, {self.ids}")
        if any(low >= high for low, high in zip(self.ids, self.ids[1:], strict=False)):
            raise ValueError(f"category ids must ascend without duplicates: {self.ids}")

    @classmethod
    def from_coco(cls, entries: Iterable[Mapping[str, Any]]) -> Categories:
        """From the "categories" list of a COCO JSON, in any order; names that occur twice get their ids."""
        ordered = sorted(entries, key=lambda entry: entry["id"])
        occurrences = Counter(entry["name"] for entry in ordered)
        names = (e["name"] if occurrences[e["name"]] == 1 else f"{e['name']} (id {e['id']})" for e in ordered)
        return cls(tuple(names), tuple(entry["id"] for entry in ordered))

    @classmethod
    def by_id(cls, names: Mapping[int, str], count: int) -> Categories:
        """Label i is the category with the id i, for i in [0, count): one without a name is no class of any data."""
        beyond = [f"{category_id} ({name})" for category_id, name in names.items() if not 0 <= category_id < count]
        if beyond:
            raise DataError(f"category ids: expected integers in 0..{count - 1}, got {', '.join(beyond)}")
        return cls(tuple(names.get(i, f"(unused {i})") for i in range(count)), tuple(range(count)))

    def to_coco(self) -> list[dict[str, Any]]:
        """The "categories" list of a COCO JSON."""
        return [{"id": category_id, "name": name} for name, category_id in zip(self.names, self.ids, strict=True)]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labels(self) -> dict[int, int]:
        """Raw category id -> label; the way back is `ids[label]`."""
        return {category_id: label for label, category_id in enumerate(self.ids)}

    def restricted_to(self, classes: Sequence[str]) -> Categories:
        """Only the categories with these names; ConfigError for a name that is not there."""
        unknown = [name for name in classes if name not in self.names]
        if unknown:
            raise ConfigError(f"data.classes: expected names out of {', '.join(self.names)}, got {', '.join(unknown)}")
        pairs = [(n, i) for n, i in zip(self.names, self.ids, strict=True) if n in classes]
        return Categories(tuple(name for name, _ in pairs), tuple(category_id for _, category_id in pairs))

    def check_covers(self, other: Categories, source: str) -> None:
        """DataError unless every category of `other`, read from `source`, is here under the same id and name."""
        known = dict(zip(self.ids, self.names, strict=True))
        differences = [
            f"id {category_id} is {name!r} there and {known.get(category_id, 'absent')!r} here"
            for name, category_id in zip(other.names, other.ids, strict=True)
            if known.get(category_id) != name
        ]
        if differences:
            shown = "; ".join(differences[:5]) + ("; ..." if len(differences) > 5 else "")
            raise DataError(
                f"{source}: its categories do not fit those of the training set: {shown}. Ids and names must agree; "
                "data.classes restricts both sets to some names"
            )
