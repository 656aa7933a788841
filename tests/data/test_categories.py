import json

import pytest

from litedetr.data import Categories, DataError
from litedetr.settings import ConfigError, from_mapping, to_mapping

ENTRIES = [
    {"id": 2**70, "name": "huge"},
    {"id": 0, "name": "zero"},
    {"id": 12, "name": "dog"},
    {"id": -3, "name": "cat"},
]


def test_labels_follow_ascending_ids_of_any_size() -> None:
    categories = Categories.from_coco(ENTRIES)
    assert categories.names == ("cat", "zero", "dog", "huge")
    assert categories.labels == {-3: 0, 0: 1, 12: 2, 2**70: 3}
    assert [categories.ids[label] for label in range(len(categories))] == [-3, 0, 12, 2**70]


def test_names_that_occur_twice_get_their_ids() -> None:
    entries = [{"id": 0, "name": "cell"}, {"id": 2, "name": "rod"}, {"id": 1, "name": "cell"}]
    assert Categories.from_coco(entries).names == ("cell (id 0)", "cell (id 1)", "rod")


def test_survives_a_checkpoint() -> None:
    categories = Categories.from_coco(ENTRIES)
    assert from_mapping(Categories, json.loads(json.dumps(to_mapping(categories)))) == categories


@pytest.mark.parametrize(("names", "ids"), [((), ()), (("a",), (1, 2)), (("a", "b"), (2, 1)), (("a", "b"), (1, 1))])
def test_refuses_what_is_no_map(names: tuple[str, ...], ids: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="categor"):
        Categories(names, ids)


def test_by_id_labels_are_ids_and_the_gaps_are_no_class() -> None:
    categories = Categories.by_id({3: "dog", 1: "cat"}, 5)
    assert categories.ids == (0, 1, 2, 3, 4)
    assert categories.names == ("(unused 0)", "cat", "(unused 2)", "dog", "(unused 4)")
    categories.check_covers(Categories(("cat", "dog"), (1, 3)), "val.json")


@pytest.mark.parametrize("category_id", [-1, 5])
def test_by_id_refuses_ids_beyond_the_labels(category_id: int) -> None:
    with pytest.raises(DataError, match=rf"category ids: expected integers in 0\.\.4, got {category_id} \(cow\)"):
        Categories.by_id({category_id: "cow"}, 5)


def test_restriction_keeps_ids() -> None:
    assert Categories.from_coco(ENTRIES).restricted_to(("dog", "cat")) == Categories(("cat", "dog"), (-3, 12))


def test_restriction_to_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(ConfigError, match=r"data\.classes: .*cat, zero, dog, huge, got cow"):
        Categories.from_coco(ENTRIES).restricted_to(("dog", "cow"))


def test_a_split_with_fewer_categories_fits() -> None:
    Categories.from_coco(ENTRIES).check_covers(Categories(("dog",), (12,)), "val.json")


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (Categories(("dog",), (13,)), "id 13 is 'dog' there and 'absent' here"),
        (Categories(("wolf",), (12,)), "id 12 is 'wolf' there and 'dog' here"),
    ],
)
def test_other_ids_or_names_are_named(other: Categories, difference: str) -> None:
    with pytest.raises(DataError, match=rf"val\.json.*{difference}"):
        Categories.from_coco(ENTRIES).check_covers(other, "val.json")
