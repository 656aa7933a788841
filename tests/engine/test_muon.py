from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_helpers import MODEL, run_config, train
from torch import Tensor, nn

from litedetr.engine.checkpoint import load_checkpoint
from litedetr.engine.distributed import Ranks
from litedetr.engine.muon import Muon, hidden_matrices
from litedetr.engine.optim import WeightUpdate
from litedetr.engine.schedule_config import ScheduleConfig
from litedetr.models import build_detector
from litedetr.settings import ConfigError

RATE, DECAY = 0.01, 0.1


def small_layers() -> nn.Sequential:
    """Two linear layers of one shape, a tall one and a convolution of 18 x 32 * 9."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20), nn.Linear(20, 32), nn.Conv2d(32, 18, 3))


def muon(layers: nn.Module) -> Muon:
    return Muon([{"params": [p for p in layers.parameters() if p.ndim > 1], "lr": RATE, "weight_decay": DECAY}])


def gradients(layers: nn.Module, step: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(p.shape, generator=generator) for p in layers.parameters()]


def stepped_naively(weight: Tensor, grads: list[Tensor]) -> Tensor:
    """One matrix at a time in float64, by the equations."""
    weight, momentum = weight.detach().double(), torch.zeros(weight.shape).double()
    for grad in grads:
        momentum = 0.95 * momentum + 0.05 * grad.double()
        x = (0.05 * grad.double() + 0.95 * momentum).reshape(len(weight), -1)
        longer = max(x.shape)
        x = x / x.square().sum().sqrt()
        for _ in range(5):
            x = 3.4445 * x - 4.7750 * x @ x.T @ x + 2.0315 * x @ x.T @ x @ x.T @ x
        weight = (1 - RATE * DECAY) * weight - RATE * 0.2 * longer**0.5 * x.reshape(weight.shape)
    return weight


def test_steps_are_those_of_each_matrix_alone():
    layers = small_layers()
    optimizer = muon(layers)
    expected = [
        stepped_naively(p, [gradients(layers, step)[i] for step in range(3)]) for i, p in enumerate(layers.parameters())
    ]
    for step in range(3):
        for p, gradient in zip(layers.parameters(), gradients(layers, step), strict=True):
            p.grad = gradient
        optimizer.step()
    for (name, p), weight in zip(layers.named_parameters(), expected, strict=True):
        if p.ndim > 1:
            torch.testing.assert_close(p.detach().double(), weight, atol=1e-5, rtol=0, msg=name)


def test_an_update_is_as_large_as_one_of_adamw():
    layers = small_layers()
    optimizer = muon(layers)
    optimizer.param_groups[0]["weight_decay"] = 0.0
    before = [p.detach().clone() for p in layers.parameters()]
    for p, gradient in zip(layers.parameters(), gradients(layers, 0), strict=True):
        p.grad = 1e-6 * gradient
    optimizer.step()
    for p, old in zip(layers.parameters(), before, strict=True):
        if p.ndim > 1:
            assert (p - old).square().mean().sqrt().item() == pytest.approx(0.2 * RATE, rel=0.25)


def test_a_zero_gradient_moves_nothing_and_no_gradient_neither():
    layers = small_layers()
    optimizer = muon(layers)
    optimizer.param_groups[0]["weight_decay"] = 0.0
    before = [p.detach().clone() for p in layers.parameters()]
    layers[0].weight.grad = torch.zeros(20, 20)
    optimizer.step()
    assert all(torch.equal(p, old) for p, old in zip(layers.parameters(), before, strict=True))
    assert list(optimizer.state) == [layers[0].weight]
    layers[1].weight.grad = torch.ones(20, 20)
    optimizer.step()
    assert [torch.equal(p, old) for p, old in zip(layers.parameters(), before, strict=True)].index(False) == 2


def test_muon_takes_no_closure():
    with pytest.raises(ValueError, match="Muon.step: expected no closure"):
        muon(small_layers()).step(lambda: None)


def test_hidden_matrices_lie_between_features_and_features():
    model = build_detector(MODEL, 20)
    hidden = hidden_matrices(model)
    names = {name for name, p in model.named_parameters() if p in hidden}
    layer = "encoder.blocks.0.high_layers.0"
    assert {
        "backbone.layer2.0.conv1.weight",  # 16 x 8 * 9
        "neck.projections.0.conv.weight",
        f"{layer}.attention.value_proj.weight",
        f"{layer}.attention.output_proj.weight",
        f"{layer}.feedforward.linear1.weight",
        "query_selection.head.box.layers.0.weight",
        "decoder.layers.0.self_attention.query_key.weight",
        "decoder.position.layers.0.weight",
    } <= names
    assert not names & {
        "backbone.conv1.weight",  # of images
        "backbone.layer1.0.conv1.weight",  # 8 outputs
        "neck.level_embedding",
        f"{layer}.attention.sampling_offsets.weight",
        "query_selection.head.classes.weight",  # 20 outputs
        "query_selection.head.box.layers.2.weight",  # 4 outputs
        "query_selection.content.weight",
        "denoising.labels.weight",
        "decoder.head.classes.weight",
    }
    assert all(name.endswith("weight") and "norm" not in name for name in names)


@pytest.mark.parametrize(
    ("layer", "is_hidden"),
    [
        (nn.Linear(16, 16), True),
        (nn.Linear(15, 16), False),
        (nn.Linear(16, 15), False),
        (nn.Conv2d(4, 16, 2), True),
        (nn.Conv2d(3, 64, 7), False),
        (nn.Conv2d(64, 64, 7, groups=64), False),
        (nn.Conv2d(64, 64, 3, groups=2), False),
        (nn.Embedding(64, 64), False),
    ],
)
def test_layers_by_kind_and_size(layer: nn.Module, is_hidden: bool):
    assert hidden_matrices(nn.Sequential(layer)) == ({layer.weight} if is_hidden else set())


def test_adamw_has_the_rest_and_rates_keep_their_ratios():
    config = ScheduleConfig(optimizer="muon", muon_rate=3.0, lr=1e-3, backbone_lr=1e-4)
    model = build_detector(MODEL, 3)
    model.neck.requires_grad_(False)
    update = WeightUpdate.build(model, config, "fp32")
    adamw, of_muon = ([p for group in o.param_groups for p in group["params"]] for o in update.optimizers)
    trained = {p for p in model.parameters() if p.requires_grad}
    assert set(of_muon) == hidden_matrices(model) & trained
    assert len(adamw) + len(of_muon) == len(trained)
    assert set(adamw) | set(of_muon) == trained
    update.set_learning_rate(0.5)
    rates = {p: group["lr"] for o in update.optimizers for group in o.param_groups for p in group["params"]}
    assert rates[model.backbone.layer4[0].conv1.weight] == pytest.approx(1.5e-4)
    assert rates[model.decoder.layers[0].feedforward.linear1.weight] == pytest.approx(1.5e-3)
    assert rates[model.decoder.layers[0].feedforward.linear1.bias] == pytest.approx(5e-4)


def test_steps_lower_a_loss():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 40), nn.Tanh(), nn.Linear(40, 16))
    update = WeightUpdate.build(model, ScheduleConfig(optimizer="muon", lr=0.01), "fp32")
    x, y = torch.randn(64, 24), torch.randn(64, 16)
    losses = []
    for _ in range(30):
        update.zero_grad()
        loss = (model(x) - y).square().mean()
        update.backward(loss)
        update.apply()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_a_resumed_run_is_the_uninterrupted_one(cache: Path, tmp_path: Path, one_rank: Ranks):
    schedule = {"optimizer": "muon"}
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    train(run_config(cache, schedule), whole, one_rank)
    train(run_config(cache, schedule, trainer={"stop_after": 4}), parted, one_rank)
    train(run_config(cache, schedule), parted, one_rank)
    mine, theirs = load_checkpoint(parted / "last.pt"), load_checkpoint(whole / "last.pt")
    assert {frozenset(state) for state in mine.optimizer.values()} == {
        frozenset({"momentum"}),
        frozenset({"step", "exp_avg", "exp_avg_sq"}),
    }
    assert mine.optimizer.keys() == theirs.optimizer.keys()
    for name, value in theirs.model.items():
        assert torch.equal(mine.model[name], value), name
    for name, state in theirs.optimizer.items():
        assert all(torch.equal(mine.optimizer[name][key], value) for key, value in state.items()), name


def test_moments_of_another_optimizer_are_refused(cache: Path, tmp_path: Path, one_rank: Ranks):
    train(run_config(cache, trainer={"stop_after": 1}), tmp_path, one_rank)
    with pytest.raises(ConfigError, match=r"schedule.optimizer: expected adamw, whose moments .*last.pt has.*'muon'"):
        train(run_config(cache, {"optimizer": "muon"}), tmp_path, one_rank)


def test_fp16_is_refused(cache: Path):
    config = run_config(cache, {"optimizer": "muon"}, {"precision": "bf16"})
    with pytest.raises(ConfigError, match="trainer.precision: expected fp32 or bf16 with schedule.optimizer=muon"):
        replace(config, trainer=replace(config.trainer, precision="fp16"))


def test_a_matrix_that_gets_no_gradient_any_more_stays_finite_and_comes_to_rest():
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(16, 20))
    optimizer = Muon([{"params": [weight], "lr": 1e-3, "weight_decay": 0.0}])
    weight.grad = 1e-3 * torch.randn(16, 20)
    optimizer.step()
    weight.grad = torch.zeros(16, 20)
    for _ in range(1500):
        before = weight.detach().clone()
        optimizer.step()
    assert weight.isfinite().all()
    assert torch.equal(weight, before)
