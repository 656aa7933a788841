import math
from dataclasses import replace
from itertools import cycle

import pytest
import torch
from engine_helpers import build_step, run_config
from torch import Tensor, nn

from litedetr.data import build_datasets, collate
from litedetr.engine.distributed import Ranks
from litedetr.engine.loader import MicroBatch
from litedetr.engine.shares import as_shares, step_seed
from litedetr.engine.step_result import NonFiniteError
from litedetr.engine.train_step import TrainStep
from litedetr.losses import Branch, Criterion, LossConfig, Losses
from litedetr.losses.supervision import not_finite
from litedetr.models.detector_config import DecoderConfig, DenoisingConfig, HybridConfig, QuerySelectionConfig
from litedetr.structures import Share, Target, TargetBatch


@pytest.fixture(scope="module")
def samples(cache):
    """Images of several sizes with 0 to 3 objects."""
    data = build_datasets(run_config(cache).data, seed=0).train
    return [data[index] for index in range(8)]


def batch_of(samples, dtype: torch.dtype) -> MicroBatch:
    images, targets = collate(samples)
    return replace(images, pixels=images.normalised().pixels.to(dtype)), replace(targets, boxes=targets.boxes.to(dtype))


# Of 4 or 5 tokens an image, 3 are the detector's own; images have up to 3 objects, which one-to-many queries see twice.
FROM_PROPOSALS = DecoderConfig(2, 16, heads="per_layer", query_position="proposals", look_forward_twice=False)
DEFORMABLE_DETR = {
    "denoising": DenoisingConfig(num_pairs=0),
    "query_selection": QuerySelectionConfig(3, "two_stage"),
    "decoder": FROM_PROPOSALS,
}
H_DETR = {
    **DEFORMABLE_DETR,
    "query_selection": QuerySelectionConfig(3, "two_stage_mixed"),
    "hybrid": HybridConfig(num_queries=6, num_repeats=2),
    "decoder": replace(FROM_PROPOSALS, look_forward_twice=True),
}

BESIDE_DENOISING = {  # Of up to 3 objects an image, each group of queries sees all.
    "query_selection": QuerySelectionConfig(3),
    "denoising": DenoisingConfig(num_pairs=6),
    "hybrid": HybridConfig(num_queries=6, num_repeats=2),
}


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


SYSTEMS = {"DINO": None, "beside denoising": BESIDE_DENOISING, "Deformable DETR": DEFORMABLE_DETR, "H-DETR": H_DETR}


@pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS)
def test_accumulation_gives_the_large_batch_its_gradient_loss_and_parts(samples, one_rank: Ranks, system):
    """With unequal object counts, so that a mean of the micro-batches' means is another number."""
    large, small = (build_step(one_rank, torch.float64, system=system) for _ in range(2))
    pieces = [samples[:1], samples[1:6], samples[6:]]
    assert len({sum(len(s.target) for s in piece) / len(piece) for piece in pieces}) > 1
    expected = large(0, [batch_of(samples, torch.float64)])
    result = small(0, [batch_of(piece, torch.float64) for piece in pieces])
    assert result.loss == pytest.approx(expected.loss, rel=1e-9)
    assert [part.name for part in result.parts] == [part.name for part in expected.parts]
    assert [float(p.value) for p in result.parts] == pytest.approx([float(p.value) for p in expected.parts])
    for name, wanted in gradients(large.model).items():
        got = gradients(small.model)[name]
        assert (got - wanted).norm() <= 1e-9 * wanted.norm().clamp(min=1e-6), name


def test_a_step_draws_the_same_noise_whatever_came_before(samples, one_rank: Ranks):
    batch = batch_of(samples[:4], torch.float32)
    first, second = build_step(one_rank), build_step(one_rank)
    torch.rand(17)
    assert first(3, [batch]).loss == second(3, [batch]).loss
    assert build_step(one_rank)(4, [batch]).loss != build_step(one_rank)(3, [batch]).loss


def test_seeds_of_steps_and_ranks_differ():
    seeds = {step_seed(seed, step, rank) for seed in range(3) for step in range(50) for rank in range(4)}
    assert len(seeds) == 600
    assert all(0 <= seed < 2**63 for seed in seeds)


class TwoRanks(Ranks):
    """The first of two ranks; what the other one says in each exchange is given."""

    def __init__(self, *answers: tuple[float, ...]) -> None:
        super().__init__(torch.device("cpu"), world_size=2)
        object.__setattr__(self, "answers", iter(answers))

    def gather_numbers(self, *values: float) -> list[list[float]]:
        return [list(values), list(next(self.answers))]

    def gather(self, value: list[str]) -> list[list[str]]:
        return [value, next(self.answers)]


NO_OBJECTS = (0, 0, 2)  # an answer on counts, of two images


def target(num_objects: int) -> Target:
    return Target(torch.zeros(num_objects, dtype=torch.int64), torch.rand(num_objects, 4), 0, (10, 10))


def test_counts_are_those_of_all_micro_batches_and_ranks(one_rank: Ranks):
    batches = [TargetBatch.from_targets([target(2), target(0)]), TargetBatch.from_targets([target(0)])]
    assert [(b.num_boxes, b.max_objects) for b in as_shares(batches, one_rank, 0)] == [(2, 2)] * 2
    two = TwoRanks((7, 5, 2, 1))
    assert [(b.num_boxes, b.max_objects) for b in as_shares(batches, two, 0)] == [(9, 5)] * 2
    empty = [TargetBatch.from_targets([target(0)])] * 2
    assert [(b.num_boxes, b.max_objects) for b in as_shares(empty, one_rank, 0)] == [(1, 0)] * 2


def test_shares_lie_in_the_order_in_which_the_images_are_dealt_out(one_rank: Ranks):
    """Of a micro-batch first this rank's images, then the other's, then those of the next one."""
    batches = [TargetBatch.from_targets([target(1)] * size) for size in (2, 1)]
    assert [b.share for b in as_shares(batches, one_rank, 7)] == [Share(0, 3, 7), Share(2, 3, 7)]
    assert [b.share for b in as_shares(batches, TwoRanks((9, 1, 4, 5)), 7)] == [Share(0, 12, 7), Share(6, 12, 7)]


@pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS)
def test_a_batch_without_any_object_gives_every_parameter_a_finite_gradient(samples, one_rank: Ranks, system):
    """A parameter without a gradient would stop training on several ranks."""
    bare = [replace(s.target, labels=s.target.labels[:0], boxes=s.target.boxes[:0]) for s in samples]
    nothing = [replace(sample, target=target) for sample, target in zip(samples, bare, strict=True)]
    step = build_step(one_rank, system=system)
    assert math.isfinite(step(0, [batch_of(nothing, torch.float32)]).loss)
    assert [name for name, gradient in gradients(step.model).items() if gradient is None] == []


def test_a_signal_to_another_rank_reaches_this_one(samples, one_rank: Ranks):
    batch = batch_of(samples[:2], torch.float32)
    assert build_step(one_rank)(0, [batch]).stop_signal == 0
    asked = build_step(one_rank)
    asked.stop.signum = 15
    assert asked(0, [batch]).stop_signal == 15
    assert build_step(TwoRanks(NO_OBJECTS, (0.0, True, 2)))(0, [batch]).stop_signal == 2


def assert_stops_without_update(step: TrainStep, batch: MicroBatch, message: str) -> None:
    before = {name: value.clone() for name, value in step.model.state_dict().items()}
    with pytest.raises(NonFiniteError, match=message) as error:
        step(41, [batch])
    assert "at step 41" in str(error.value)
    assert "schedule.lr" in str(error.value)
    for name, value in step.model.state_dict().items():
        assert torch.equal(value.isnan(), before[name].isnan()), name
        assert torch.equal(value.nan_to_num(), before[name].nan_to_num()), name


def test_nan_predictions_stop_before_the_update(samples, one_rank: Ranks):
    batch = batch_of(samples[:2], torch.float32)
    step = build_step(one_rank)
    nn.init.constant_(step.model.decoder.head.classes.weight, math.nan)
    where = "predictions that are not finite: decoder layer 0, decoder layer 1, denoising layer 0, denoising layer 1"
    assert_stops_without_update(step, batch, rf"the loss is nan at step 41 \({where}\)")
    other_rank_failed = replace(
        build_step(one_rank), ranks=TwoRanks(NO_OBJECTS, (math.nan, True, 0), ["decoder layer 1", "proposals layer 0"])
    )
    where = "predictions that are not finite: decoder layer 1 on process 1, proposals layer 0 on process 1"
    assert_stops_without_update(other_rank_failed, batch, rf"the loss is nan at step 41 \({where}\)")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_one_nan_box_stops_even_if_nothing_is_matched_to_it(samples, one_rank: Ranks, precision: str):
    """The matching leaves out the last query of the last layer, so the loss is finite; its gradient is not.

    With fp16 that is no overflow, which would be skipped.
    """
    step = build_step(one_rank, precision=precision)
    of_last_layer = cycle([False, False, True, False])  # a layer predicts, then refines

    def with_a_nan(module: nn.Module, arguments: tuple[Tensor, ...], box: Tensor) -> Tensor:
        is_last = torch.arange(box.shape[1]) == box.shape[1] - 1
        return box * torch.where(is_last & next(of_last_layer), math.nan, 1.0)[:, None]

    step.model.decoder.head.box.register_forward_hook(with_a_nan)
    where = r"\(predictions that are not finite: decoder layer 1\)"
    assert_stops_without_update(step, batch_of(samples[:1], torch.float32), rf"the gradient's norm nan .*{where}")


def test_every_branch_is_told_of_in_the_error(samples, one_rank: Ranks):
    images, targets = batch_of(samples[:2], torch.float32)
    step = build_step(one_rank, system=H_DETR)
    output = step.model(images, targets)
    assert step.criterion(output, targets).total.isfinite()
    first, second = output.one_to_many.layers
    broken = replace(second, boxes=second.boxes * math.nan)
    output = replace(output, one_to_many=replace(output.one_to_many, layers=(first, broken)))
    losses = step.criterion(output, targets)
    assert losses.total.isnan()
    assert not_finite(output, targets) == ["one-to-many layer 1"]
    found = {(part.branch, part.layer) for part in losses.parts if not part.value.isfinite()}
    assert found == {(Branch.ONE_TO_MANY, 1)}


def test_an_infinite_loss_stops_before_the_update_with_its_parts(samples, one_rank: Ranks):
    batch = batch_of(samples[:2], torch.float32)

    class Infinite(Criterion):
        def __call__(self, *args: object) -> Losses:
            losses = super().__call__(*args)
            return replace(losses, total=losses.total * math.inf)

    infinite = replace(build_step(one_rank), criterion=Infinite(LossConfig()))
    assert_stops_without_update(infinite, batch, r"loss is inf.* decoder classes \d\.\d+ \d\.\d+, l1 \d\.\d+ ")


def test_an_infinite_gradient_stops_in_full_precision_and_is_skipped_by_the_fp16_scaler(samples, one_rank: Ranks):
    batch = batch_of(samples[:2], torch.float32)
    step = build_step(one_rank)
    hook = lambda grad: torch.full_like(grad, math.inf)  # noqa: E731
    next(step.model.parameters()).register_hook(hook)
    assert_stops_without_update(step, batch, "the gradient's norm (inf|nan)")

    half = build_step(one_rank, precision="fp16")
    next(half.model.parameters()).register_hook(hook)
    before = {name: value.clone() for name, value in half.model.state_dict().items()}
    scale = half.update.scaler.get_scale()
    assert not math.isfinite(half(0, [batch]).grad_norm)
    assert half.update.scaler.get_scale() == scale / 2
    assert all(torch.equal(value, before[name]) for name, value in half.model.state_dict().items())


def test_fp16_does_not_leave_out_steps_for_ever(samples, one_rank: Ranks):
    batch = batch_of(samples[:2], torch.float32)
    half = build_step(one_rank, precision="fp16")
    next(half.model.parameters()).register_hook(lambda grad: torch.full_like(grad, math.nan))
    half.update.scaler.load_state_dict(half.update.scaler.state_dict() | {"scale": 2.0**-9})
    half(0, [batch])
    assert_stops_without_update(half, batch, "the gradient's norm nan")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_to_about_the_same_loss(samples, one_rank: Ranks, precision: str):
    batch = batch_of(samples[:4], torch.float32)
    expected = build_step(one_rank)(0, [batch])
    step = build_step(one_rank, precision=precision)
    before = next(step.model.parameters()).clone()
    results = [step(0, [batch])]
    while not math.isfinite(results[-1].grad_norm) and len(results) < 12:  # until fp16 has found its scale
        results.append(step(0, [batch]))
    assert results[0].loss == pytest.approx(expected.loss, rel=0.05)
    assert results[0].loss != expected.loss
    assert results[-1].grad_norm == pytest.approx(expected.grad_norm, rel=0.2)  # a skipped step changes nothing
    assert not torch.equal(next(step.model.parameters()), before)
