"""A new term of the loss: one function and one line of configuration."""

import json
from dataclasses import replace

import pytest
import torch
from engine_helpers import run_config, train

from litedetr.cli.compose import compose
from litedetr.engine.distributed import Ranks
from litedetr.engine.run_config import RunConfig
from litedetr.losses import LossConfig
from litedetr.losses.terms import TERMS, Matched, loss_term
from litedetr.settings import ConfigError

LINE = "+loss.weights.centre_distance=3.0"


@pytest.fixture
def centre_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry with one more term."""
    monkeypatch.setitem(TERMS, "centre_distance", None)  # and without it afterwards

    @loss_term
    def centre_distance(matched: Matched, config: LossConfig) -> torch.Tensor:
        return (matched.boxes - matched.target_boxes)[:, :2].norm(dim=1).sum()


def test_a_term_is_trained_and_logged_once_it_has_a_weight(centre_distance, cache, tmp_path, one_rank: Ranks):
    before, loss = (RunConfig.from_settings(compose("train", given)).loss for given in ([], [LINE]))
    assert loss.weights == before.weights | {"centre_distance": 3.0}
    small = replace(run_config(cache, trainer={"stop_after": 1}), loss=loss)
    train(small, tmp_path, one_rank)
    (record,) = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for terms in record["loss_parts"].values():
        assert list(terms) == list(loss.weights)
        assert all(value > 0 for value in terms["centre_distance"])
    weighted = [loss.weights[t] * sum(v) for terms in record["loss_parts"].values() for t, v in terms.items()]
    assert record["loss"] == pytest.approx(sum(weighted), rel=1e-5)


def test_a_term_without_a_weight_is_not_computed(centre_distance):
    assert "centre_distance" not in LossConfig().weights


def test_an_unknown_term_is_named_with_those_that_are_known():
    *others, last = TERMS
    known = f"{', '.join(map(repr, others))} or {last!r}"
    with pytest.raises(ConfigError, match=rf"^loss.weights.foo: expected one of {known}, got 'foo'$"):
        LossConfig(weights={"l1": 1.0, "foo": 2.0})
    with pytest.raises(ConfigError, match=rf"^loss.weights: expected at least one of {', '.join(TERMS)}, got \{{\}}$"):
        LossConfig(weights={})
    with pytest.raises(ConfigError, match=r"^loss.weights.l1: expected at least 0, got -1"):
        LossConfig(weights={"l1": -1})
