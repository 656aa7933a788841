"""Settings that cannot work end in a ConfigError that names them, never in an error from deep inside."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest
import torch
from config_cases import SOURCES, VALUES, Change, Source, any_value, paths
from hypothesis import given, settings
from hypothesis import strategies as st
from model_helpers import random_targets

from litedetr.engine.run_config import RunConfig
from litedetr.losses import Criterion
from litedetr.models import DetectorConfig, build_detector
from litedetr.settings import ConfigError
from litedetr.structures import ImageBatch

CASES, LEARNING_CASES = 700, 60  # of the quick tests; the slow ones take ten times as many
NAMED = re.compile(r"[\w.\[\]]+[^:]*: expected ")
BY_SCRIPT = {name: [source for source in SOURCES if source.script == name] for name in {s.script for s in SOURCES}}

TINY = (
    *("encoder=h3l1", "a=1", "b=1", "encoder.feedforward=8", "neck.channels=8", "neck.norm_groups=2"),
    *("attention.num_heads=2", "query_selection.num_queries=8", "decoder.num_layers=1", "decoder.feedforward=8"),
    *("backbone.width=8", "backbone.norm=group", "backbone.frozen_stages=0"),
)
TINY_SYSTEMS = [
    Source("train", (f"model={name}", *TINY), RunConfig.from_settings)
    for name in ("lite_dino", "lite_deformable_detr", "lite_h_detr")
]
TINY_SECTIONS = ("neck", "encoder", "attention", "query_selection", "denoising", "hybrid", "decoder", "loss", "padding")


def refusal(source: Source, made: list[Change]) -> str | None:
    """The message of the ConfigError, which names the setting; None where the settings can be worked with."""
    try:
        build(source.read_with(made))
    except ConfigError as error:
        message = str(error)
    else:
        return None
    assert NAMED.match(message), message
    assert len(made) > 1 or made[0].path[-1] in message, f"{made[0]}: {message}"
    return message


def build(config: object) -> None:
    """What is made of the settings of a model, on the meta device, where any size costs nothing."""
    model = config.model if isinstance(config, RunConfig) else config
    if isinstance(model, DetectorConfig):
        build_once(model)


@cache
def build_once(config: DetectorConfig) -> None:
    with torch.device("meta"):
        build_detector(config, num_classes=80)


@st.composite
def several_changes(draw: st.DrawFn) -> tuple[Source, list[Change]]:
    """One to three, of any script's settings."""
    source = draw(st.sampled_from(sorted(BY_SCRIPT)).flatmap(lambda script: st.sampled_from(BY_SCRIPT[script])))
    one = st.builds(Change, st.sampled_from(sorted(paths(source.settings))), any_value())
    return source, draw(st.lists(one, min_size=1, max_size=3))


def check_several_changes(max_examples: int) -> None:
    ends = Counter()

    @settings(max_examples=max_examples)
    @given(several_changes())
    def check(case: tuple[Source, list[Change]]) -> None:
        ends["worked" if refusal(*case) is None else "refused"] += 1

    check()
    print(f"several changes: {dict(ends)}")
    assert min(ends["refused"], ends["worked"]) > 0.03 * max_examples


def test_any_value_of_any_setting_is_refused_by_name_or_works():
    check_several_changes(CASES)


@pytest.mark.slow
def test_ten_times_as_many_changes():
    check_several_changes(10 * CASES)


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_every_setting_with_every_awkward_value(source: Source):
    cases = [Change(path, value) for path in paths(source.settings) for value in VALUES]
    refused = sum(refusal(source, [case]) is not None for case in cases)
    print(f"{source}: {len(cases)} cases, {refused} refused")
    assert 0.5 < refused / len(cases) < 1


FITTING = {
    int: st.one_of(st.integers(1, 12), st.integers(0, 1), st.sampled_from([2, 4, 16, 24])),
    float: st.sampled_from([0.0, 1e-9, 0.3, 1.0, 3.0, 1e6]),
    bool: st.booleans(),
    type(None): st.one_of(st.none(), st.integers(0, 9)),
    str: st.sampled_from(
        ["sequential", "joint", "full", "key_aware", "deformable", "shared", "per_layer", "published"]
    ),
}


@st.composite
def sizes_that_may_not_fit(draw: st.DrawFn) -> tuple[Source, list[Change]]:
    """Small numbers, valid alone, in several places of a tiny detector and of its loss."""
    source = draw(st.sampled_from(TINY_SYSTEMS))
    mapping = source.settings
    known = [path for path in paths(mapping) if path[0] in TINY_SECTIONS and kind_of(mapping, path) in FITTING]
    chosen = draw(st.lists(st.sampled_from(known), min_size=1, max_size=3, unique=True))
    return source, [Change(path, draw(FITTING[kind_of(mapping, path)])) for path in chosen]


def kind_of(mapping: Mapping[str, Any], path: tuple[str, ...]) -> type:
    """Of the setting's present value; that of no setting is a mapping's."""
    for name in path:
        mapping = mapping.get(name, {})
    return type(mapping)


def check_that_it_learns(max_examples: int) -> None:
    ends = Counter()

    @settings(max_examples=max_examples)
    @given(sizes_that_may_not_fit())
    def check(case: tuple[Source, list[Change]]) -> None:
        source, made = case
        ends["refused" if refusal(source, made) else learn(source.read_with(made))] += 1

    check()
    print(f"sizes that may not fit: {dict(ends)}")
    assert min(ends["refused"], ends["finite"]) > 0.1 * max_examples


def learn(config: RunConfig) -> str:
    """A forward and a backward pass on two images, one of them without objects: `finite` or not."""
    torch.manual_seed(0)
    model = build_detector(config.model, num_classes=3)
    images = ImageBatch.from_images([torch.randn(3, 48, 64), torch.randn(3, 64, 40)])
    targets = random_targets(2, 0)
    output, criterion = model(images, targets), Criterion(config.loss)
    total = criterion(output, targets).total
    total.backward()
    return "finite" if total.isfinite() else "not finite"


def test_sizes_that_do_not_fit_together_are_refused_and_the_others_learn():
    check_that_it_learns(LEARNING_CASES)


@pytest.mark.slow
def test_ten_times_as_many_sizes():
    check_that_it_learns(10 * LEARNING_CASES)
