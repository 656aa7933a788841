import pytest

from litedetr.engine.lr_schedule import LRSchedule, schedule_warnings
from litedetr.engine.run_config import TrainerConfig
from litedetr.engine.schedule_config import ScheduleConfig
from litedetr.settings import ConfigError


def factors(steps_per_epoch: int = 10, **settings: object) -> list[float]:
    lr_schedule = LRSchedule(ScheduleConfig(**settings), steps_per_epoch)
    return [lr_schedule.factor(step) for step in range(lr_schedule.total_steps)]


def test_published_twelve_epochs_fall_tenfold_after_eleven():
    values = factors()
    assert len(values) == 120
    assert values[:110] == [1.0] * 110
    assert values[110:] == pytest.approx([0.1] * 10)


def test_several_milestones_in_steps():
    values = factors(max_epochs=None, max_steps=6, milestones=(2, 4), gamma=0.5)
    assert values == [1, 1, 0.5, 0.5, 0.25, 0.25]


def test_warmup_rises_linearly_to_the_peak():
    assert factors(max_epochs=None, max_steps=6, milestones=(5,), warmup_steps=3)[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_cosine_begins_after_the_warmup_and_ends_near_zero():
    values = factors(max_epochs=None, max_steps=12, decay="cosine", milestones=(), warmup_steps=2)
    assert values[2] == 1.0
    assert values[7] == pytest.approx(0.5)
    assert values[2:] == sorted(values[2:], reverse=True)
    assert 0 < values[-1] < 0.03


def test_constant_decay_stays():
    assert factors(decay="constant", milestones=()) == [1.0] * 120


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"milestones": (12,)}, "schedule.milestones"),
        ({"milestones": (8, 4)}, "schedule.milestones"),
        ({"decay": "cosine"}, "schedule.milestones"),
        ({"batch_size": 16, "grad_accum_steps": 3}, "schedule.grad_accum_steps"),
        ({"max_epochs": 0}, "schedule.max_epochs"),
        ({"max_epochs": None}, "schedule.max_epochs: expected at least 1, or a number of schedule.max_steps, got None"),
        ({"max_steps": 5}, "schedule.max_steps: expected null with schedule.max_epochs=12, got 5: set schedule.max_ep"),
        ({"max_epochs": None, "max_steps": 0}, "schedule.max_steps"),
        ({"max_epochs": None, "max_steps": 9}, r"ascending steps between 0 and schedule.max_steps \(9\)"),
        ({"lr": -1.0}, "schedule.lr"),
        ({"clip_norm": 0.0}, "schedule.clip_norm"),
        ({"ema_decay": 1.0}, "schedule.ema_decay"),
    ],
)
def test_a_setting_that_cannot_work_is_named(settings: dict, named: str):
    with pytest.raises(ConfigError, match=named):
        ScheduleConfig(**settings)


def warned(max_epochs: int = 6, warmup_steps: int = 0, steps_per_epoch: int = 250, **trainer: object) -> list[str]:
    schedule = ScheduleConfig(max_epochs=max_epochs, decay="cosine", milestones=(), warmup_steps=warmup_steps)
    return schedule_warnings(LRSchedule(schedule, steps_per_epoch), TrainerConfig(**trainer))


def test_a_warmup_longer_than_the_run_is_told_with_what_to_set():
    (line,) = warned(warmup_steps=150, steps_per_epoch=1)
    assert line == (
        "warning: schedule.warmup_steps=150 is not over within this run of 6 steps (1 an epoch), whose rates end at 4% "
        "of their peak: set schedule.warmup_steps=0, or a larger schedule.max_epochs"
    )
    (line,) = warned(warmup_steps=80, steps_per_epoch=20)
    assert "schedule.warmup_steps=80 is 67% of this run of 120 steps (20 an epoch)" in line
    assert "set schedule.warmup_steps=12, or" in line


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"evaluate_every": 7}, "trainer.evaluate_every=7 is longer than this run of 1500 steps"),
        ({"evaluate_every": None, "checkpoint_every": 1500}, "trainer.checkpoint_every=1500 is not below this run"),
        ({"stop_after": 1501}, "trainer.stop_after=1501 is beyond the end of this run of 1500 steps (250 an epoch)"),
    ],
)
def test_what_lies_beyond_the_end_is_told(settings: dict, line: str):
    (found,) = warned(**settings)
    assert found.startswith(f"warning: {line}")


@pytest.mark.parametrize(
    "settings",
    [{"warmup_steps": n} for n in (150, 750)]
    + [{"checkpoint_every": 5000}, {"evaluate_every": None}, {"stop_after": 1500}],
)
def test_what_fits_is_not_told(settings: dict):
    """The default run's warm-up, and half of a run; what is evaluated is saved too."""
    assert warned(**settings) == []
    assert warned(max_epochs=1, steps_per_epoch=2) == []
