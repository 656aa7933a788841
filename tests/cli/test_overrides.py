"""What Hydra cannot read is told with the quotes that make it text."""

import shlex

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from litedetr.cli.compose import text_of
from litedetr.cli.overrides import parse_overrides
from litedetr.settings import ConfigError

AWKWARD = [
    *("a=b.jpg", "a,b.jpg", "a(1).jpg", "[x].jpg", "{x}.jpg", "猫.jpg", "é.jpg", "a~b", "~/a.jpg", "a#b.jpg"),
    *("it's.jpg", 'say "hi", twice.jpg', "back\\slash,a.jpg", "end,\\", 'both \' and ", then \\" .jpg', "new\nline"),
    *("$HOME,x", "a < b > c", "a]", "b)", "./a,", "\udce7x", "a;b&c.jpg"),
]


def refused(*texts: str) -> str:
    with pytest.raises(ConfigError) as error:
        parse_overrides(texts, is_sweep=False)
    return str(error.value)


@pytest.mark.parametrize("value", AWKWARD)
def test_the_quotes_that_are_told_work(value: str):
    """In a POSIX shell, and then in Hydra."""
    message = refused("checkpoint=a", f"source={value}")
    assert message.startswith(f"source={value}: ")
    advice = message[message.index(": '", len(f"source={value}")) + 2 :]
    (argument,) = shlex.split(advice)
    _, override = parse_overrides(["checkpoint=a", argument], is_sweep=False)
    assert (override.get_key_element(), override.value()) == ("source", value)


def test_a_list_that_the_shell_took_apart_is_put_together():
    assert refused("a=1", "data.classes=[RBC,", "WBC]", "b=2").endswith("'data.classes=[RBC, WBC]'")


@pytest.mark.parametrize(
    ("arguments", "items"),
    [
        (["[猫, 犬]"], ["猫", "犬"]),
        (["[cat,Straße]"], ["cat", "Straße"]),
        (["[runs/a=1,runs/b]"], ["runs/a=1", "runs/b"]),
        (["[person (adult), dog]"], ["person (adult)", "dog"]),
        (["[猫,", "犬]"], ["猫", "犬"]),
        (["[a=1,", "b,", "c d]"], ["a=1", "b", "c d"]),
    ],
)
def test_the_items_of_a_list_are_quoted_and_not_the_list(arguments: list[str], items: list[str]):
    message = refused(f"data.classes={arguments[0]}", *arguments[1:])
    (argument,) = shlex.split(message[message.rindex(": 'data.classes=") + 2 :])
    (override,) = parse_overrides([argument], is_sweep=False)
    assert [str(item) for item in override.value()] == items


def test_an_argument_without_a_name():
    advice = "expected name=value; spaces end an argument, quotes keep it together: "
    assert refused("photo.jpg") == f"photo.jpg: {advice}'name=\"two words\"'"
    assert refused("a=1", "data.root=my", "own", "data", "b=2") == f"own: {advice}'data.root=\"my own\"'"


def test_a_value_that_the_shell_took_apart_is_put_together():
    assert refused("source=a=b", "of", "mine.jpg", "b=2").endswith("""'source="a=b of mine.jpg"'""")


def test_what_hydra_reads_is_left_alone():
    texts = ["a=1", "~schedule.lr", "+a=6", "source=a/**/*.jpg", "source=a b.jpg", "run=${schedule.lr}", "x=[1, 2]"]
    assert len(parse_overrides(texts, is_sweep=False)) == len(texts)
    assert len(parse_overrides(["a=1,2"], is_sweep=True)) == 1


@pytest.mark.parametrize("name", ["1e5", "1_000", "true", "7", "[x]", "inf"])
def test_a_run_is_named_as_it_was_typed(name: str, monkeypatch: pytest.MonkeyPatch):
    """Hydra makes 100000.0 of 1e5."""
    (override,) = parse_overrides([f"run={name}"], is_sweep=False)
    chosen = OmegaConf.create({"overrides": {"task": ["seed=1", f"run={name}"]}})
    monkeypatch.setattr(HydraConfig, "get", lambda: chosen)
    assert text_of(OmegaConf.create({"run": override.value()}), "run") == name
    assert text_of(OmegaConf.create({"run": None}), "run") is None
    assert text_of(OmegaConf.create({"run": "lr_1"}), "run") == "lr_1"
