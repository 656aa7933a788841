import pytest
import torch

from litedetr.data import EpochSampler, Sample, SampleKey, collate
from litedetr.structures import Target


def epoch_of(sampler: EpochSampler, epoch: int, first_batch: int = 0) -> list[list[SampleKey]]:
    sampler.set_position(epoch, first_batch)
    return list(sampler)


def indices(batches: list[list[SampleKey]]) -> list[int]:
    return [key.index for batch in batches for key in batch]


def test_an_epoch_is_a_permutation_of_its_own() -> None:
    sampler = EpochSampler(40, 8, seed=5)
    first, second = epoch_of(sampler, 0), epoch_of(sampler, 1)
    assert sorted(indices(first)) == sorted(indices(second)) == list(range(40))
    assert indices(first) != indices(second)
    assert indices(first) != list(range(40))
    assert {key.epoch for batch in second for key in batch} == {1}
    assert epoch_of(EpochSampler(40, 8, seed=5), 1) == second
    assert epoch_of(EpochSampler(40, 8, seed=6), 1) != second


@pytest.mark.parametrize("world_size", [2, 4])
def test_global_batches_do_not_depend_on_the_world_size(world_size: int) -> None:
    alone = epoch_of(EpochSampler(50, 8, seed=1), 3)
    ranks = [
        epoch_of(EpochSampler(50, 8 // world_size, seed=1, rank=rank, world_size=world_size), 3)
        for rank in range(world_size)
    ]
    together = [[key for part in parts for key in part] for parts in zip(*ranks, strict=True)]
    assert together == alone
    assert len(alone) == 6  # two images are left over


def test_a_resumed_epoch_is_the_rest_of_it() -> None:
    sampler = EpochSampler(40, 8, seed=5)
    assert epoch_of(sampler, 2, first_batch=3) == epoch_of(sampler, 2)[3:]
    assert len(sampler) == 5


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("num_items", [1, 2, 6, 13, 30, 31])
def test_evaluation_sees_every_image_once(num_items: int, world_size: int) -> None:
    samplers = [
        EpochSampler(num_items, 3, rank=rank, world_size=world_size, training=False) for rank in range(world_size)
    ]
    batches = [list(sampler) for sampler in samplers]
    assert sorted(index for part in batches for index in indices(part)) == list(range(num_items))
    assert [len(part) for part in batches] == [len(sampler) for sampler in samplers]
    assert all(1 <= len(batch) <= 3 for part in batches for batch in part)


def test_evaluation_on_one_rank_keeps_the_order() -> None:
    assert indices(list(EpochSampler(7, 3, training=False))) == list(range(7))


def test_too_few_images_for_one_batch_is_an_error() -> None:
    with pytest.raises(ValueError, match="a batch of 16 over all ranks is more than the 15 images"):
        EpochSampler(15, 8, world_size=2)


def test_collate_pads_and_counts() -> None:
    samples = [
        Sample(torch.ones(3, *size, dtype=torch.uint8), Target(torch.arange(n), torch.rand(n, 4), n, size))
        for n, size in ((2, (4, 6)), (0, (5, 3)))
    ]
    images, targets = collate(samples)
    assert images.pixels.shape == (2, 3, 5, 6)
    assert images.sizes.tolist() == [[4, 6], [5, 3]]
    assert images.pixels.sum() == 3 * (4 * 6 + 5 * 3)
    assert (targets.num_boxes, targets.max_objects) == (2, 2)
    assert [target.image_id for target in targets.items] == [2, 0]
