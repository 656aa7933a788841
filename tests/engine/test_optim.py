import pytest
import torch
from engine_helpers import MODEL
from torch import nn

from litedetr.engine.optim import build_optimizer, load_optimizer_state, optimizer_state, set_learning_rate
from litedetr.engine.schedule_config import ScheduleConfig
from litedetr.models import build_detector

RATES = {"lr": 1e-3, "backbone_lr": 1e-4, "sampling_offsets_lr": 1e-5, "weight_decay": 0.1}


def by_name(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: group for group in optimizer.param_groups for p in group["params"]}


def test_every_trainable_parameter_of_the_detector_has_the_rate_of_its_part():
    model = build_detector(MODEL, 3)
    model.neck.requires_grad_(False)
    groups = by_name(model, build_optimizer(model, ScheduleConfig(**RATES)))
    assert groups.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    for name, group in groups.items():
        expected = 1e-4 if name.startswith("backbone.") else 1e-5 if "sampling_offsets" in name else 1e-3
        assert group["lr"] == expected, name
    assert {1e-3, 1e-4, 1e-5} == {group["lr"] for group in groups.values()}
    assert {group["weight_decay"] for group in groups.values()} == {0.1}


def test_norms_and_biases_can_be_spared_from_weight_decay():
    model = build_detector(MODEL, 3)
    groups = by_name(model, build_optimizer(model, ScheduleConfig(**RATES, decay_norms_and_biases=False)))
    parameters = dict(model.named_parameters())
    for name, group in groups.items():
        assert group["weight_decay"] == (0.0 if parameters[name].ndim == 1 else 0.1), name


def test_the_rate_follows_the_factor_not_the_rate_before():
    model = nn.Linear(2, 2)
    optimizer = build_optimizer(model, ScheduleConfig(**RATES))
    for factor in (0.5, 0.1, 1.0):
        set_learning_rate(optimizer, factor)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 * factor)


def test_moments_find_their_parameters_when_the_groups_change():
    def stepped(config: ScheduleConfig) -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 3))
        optimizer = build_optimizer(model, config)
        model(torch.randn(4, 3)).square().sum().backward()
        return model, optimizer

    model, optimizer = stepped(ScheduleConfig(**RATES))
    optimizer.step()
    saved = {name: {k: v.clone() for k, v in s.items()} for name, s in optimizer_state(model, optimizer).items()}

    changed = ScheduleConfig(**RATES | {"weight_decay": 0.2}, decay_norms_and_biases=False)
    other_model, other = stepped(changed)
    load_optimizer_state(other_model, other, saved)
    for name, parameter in other_model.named_parameters():
        assert torch.equal(other.state[parameter]["exp_avg"], saved[name]["exp_avg"]), name
    assert {group["weight_decay"] for group in other.param_groups} == {0.0, 0.2}
