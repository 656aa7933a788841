"""A new term of the loss: one function and one line of configuration."""

import json
from dataclasses import replace

import pytest
import torch
from engine_helpers import run_config, train

from litedetr.cli.compose import compose
from litedetr.engine.distributed import Ranks
from litedetr.engine.run_config import RunConfig
from litedetr.losses import Criterion, LossConfig, Losses
from litedetr.losses.terms import TERMS, Matched, loss_term
from litedetr.settings import ConfigError
from litedetr.structures import DetectorOutput, Predictions, Target, TargetBatch

LINE = "+loss.weights.centre_distance=3.0"


@pytest.fixture
def centre_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry with one more term."""
    monkeypatch.setitem(TERMS, "centre_distance", None)  # and without it afterwards
    del TERMS["centre_distance"]

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


def test_a_term_without_a_weight_is_not_computed(monkeypatch: pytest.MonkeyPatch):
    def fails(matched: Matched, config: LossConfig) -> torch.Tensor:
        raise AssertionError

    monkeypatch.setitem(TERMS, "unused", fails)
    assert [part.term for part in criterion_of_one_layer(LossConfig()).parts] == ["classes", "l1", "giou"]
    with pytest.raises(AssertionError):
        criterion_of_one_layer(LossConfig(weights=LossConfig().weights | {"unused": 1.0}))


def test_an_unknown_term_is_named_with_those_that_are_known():
    *others, last = TERMS
    known = f"{', '.join(map(repr, others))} or {last!r}"
    with pytest.raises(ConfigError, match=rf"^loss.weights.foo: expected one of {known}, got 'foo'$"):
        LossConfig(weights={"l1": 1.0, "foo": 2.0})
    with pytest.raises(ConfigError, match=r"^loss.weights.l1: expected at least 0, got -1"):
        LossConfig(weights={"l1": -1})


@pytest.mark.parametrize("term", ["classes", "l1", "giou"])
def test_the_terms_of_detr_need_a_weight(term: str):
    """Without them a head has no gradient: several processes stop, and one would train without a word."""
    others = {name: weight for name, weight in LossConfig().weights.items() if name != term}
    with pytest.raises(ConfigError, match=rf"^loss.weights.{term}: expected a value \(0: .*\), got None$"):
        LossConfig(weights=others)
    assert LossConfig(weights=others | {term: 0}).weights[term] == 0


def criterion_of_one_layer(config: LossConfig) -> Losses:
    generator = torch.Generator().manual_seed(0)
    images, boxes = 2, torch.rand(2, 5, 4, generator=generator)
    wanted = TargetBatch.from_targets([Target(torch.zeros(1).long(), boxes[0, :1] / 2, 0, (9, 9))] * images)
    return Criterion(config)(DetectorOutput((Predictions(torch.zeros(images, 5, 3), boxes),)), wanted)


def test_a_term_that_is_no_scalar_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(TERMS, "l1", lambda matched, config: matched.boxes)
    with pytest.raises(ValueError, match=r"^loss term l1: expected it to return a scalar, got \(2, 4\)$"):
        criterion_of_one_layer(LossConfig())


def test_a_name_is_given_once():
    with pytest.raises(ValueError, match="loss term 'l1': expected a new name"):
        loss_term(TERMS["l1"])
    with pytest.raises(ValueError, match="loss term: expected a name of letters, digits and _, got '<lambda>'"):
        loss_term(lambda matched, config: matched.boxes.sum())


def test_a_term_of_weight_0_is_logged_and_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(TERMS, "mean", lambda matched, config: matched.boxes.mean())
    usual = LossConfig().weights
    without, beside = (criterion_of_one_layer(LossConfig(weights=w)) for w in (usual, usual | {"mean": 0}))
    assert without.total == beside.total
    assert [part.term for part in beside.parts] == [*usual, "mean"]
    assert beside.parts[-1].value > 0
