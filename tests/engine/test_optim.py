import pytest
import torch
from engine_helpers import MODEL
from torch import nn

from litedetr.engine.optim import WeightUpdate
from litedetr.engine.schedule_config import ScheduleConfig
from litedetr.models import build_detector

RATES = {"lr": 1e-3, "backbone_lr": 1e-4, "sampling_offsets_lr": 1e-5, "weight_decay": 0.1}


def update_of(model: nn.Module, **settings: object) -> WeightUpdate:
    return WeightUpdate.build(model, ScheduleConfig(**RATES | settings), "fp32")


def by_name(model: nn.Module, update: WeightUpdate) -> dict[str, dict]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = [group for optimizer in update.optimizers for group in optimizer.param_groups]
    return {names[id(p)]: group for group in groups for p in group["params"]}


def test_every_trainable_parameter_of_the_detector_has_the_rate_of_its_part():
    model = build_detector(MODEL, 3)
    model.neck.requires_grad_(False)
    groups = by_name(model, update_of(model))
    assert groups.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    for name, group in groups.items():
        expected = 1e-4 if name.startswith("backbone.") else 1e-5 if "sampling_offsets" in name else 1e-3
        assert group["lr"] == expected, name
    assert {1e-3, 1e-4, 1e-5} == {group["lr"] for group in groups.values()}
    assert {group["weight_decay"] for group in groups.values()} == {0.1}


def test_norms_and_biases_can_be_spared_from_weight_decay():
    model = build_detector(MODEL, 3)
    groups = by_name(model, update_of(model, decay_norms_and_biases=False))
    parameters = dict(model.named_parameters())
    for name, group in groups.items():
        assert group["weight_decay"] == (0.0 if parameters[name].ndim == 1 else 0.1), name


def test_the_rate_follows_the_factor_not_the_rate_before():
    model = nn.Linear(2, 2)
    update = update_of(model)
    for factor in (0.5, 0.1, 1.0):
        update.set_learning_rate(factor)
        assert by_name(model, update)["weight"]["lr"] == pytest.approx(1e-3 * factor)


def test_moments_find_their_parameters_when_the_groups_change():
    def with_gradients(**settings: object) -> tuple[nn.Module, WeightUpdate]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 3))
        update = update_of(model, **settings)
        model(torch.randn(4, 3)).square().sum().backward()
        return model, update

    model, update = with_gradients()
    update.apply()
    saved = {name: {k: v.clone() for k, v in s.items()} for name, s in update.moments(model).items()}

    other_model, other = with_gradients(weight_decay=0.2, decay_norms_and_biases=False)
    other.load_moments(other_model, saved)
    loaded = other.moments(other_model)
    for name, _ in other_model.named_parameters():
        assert torch.equal(loaded[name]["exp_avg"], saved[name]["exp_avg"]), name
    assert {group["weight_decay"] for group in other.optimizers[0].param_groups} == {0.0, 0.2}
