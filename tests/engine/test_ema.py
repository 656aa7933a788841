import pytest
import torch
from torch import nn

from litedetr.engine.ema import ModelAverage


def model_of(value: float) -> nn.Module:
    model = nn.BatchNorm1d(2)
    nn.init.constant_(model.weight, value)
    model.running_mean.fill_(value)
    return model


def test_the_average_follows_slowly_and_is_another_model():
    average = ModelAverage(model_of(0.0), decay=0.9)
    model = model_of(1.0)
    average.update(model, num_updates=1000)
    average.update(model, num_updates=1001)
    assert average.model.weight.tolist() == pytest.approx([1 - 0.9**2] * 2)
    assert model.weight.tolist() == [1.0, 1.0]


def test_a_short_run_does_not_average_over_its_initial_weights():
    average = ModelAverage(model_of(0.0), decay=0.9999)
    average.update(model_of(1.0), num_updates=0)
    assert average.model.weight.tolist() == pytest.approx([0.9] * 2)


def test_statistics_are_copied_and_the_copy_is_never_trained():
    average = ModelAverage(model_of(0.0).train(), decay=0.9)
    model = model_of(1.0)
    model.num_batches_tracked.fill_(7)  # of another dtype than the rest
    average.update(model, num_updates=1000)
    assert torch.equal(average.model.running_mean, torch.ones(2))
    assert average.model.num_batches_tracked == 7
    assert not average.model.training
    assert not any(p.requires_grad for p in average.model.parameters())
