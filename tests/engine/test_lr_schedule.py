import pytest

from litedetr.engine.lr_schedule import Timeline, doubts
from litedetr.engine.run_config import ScheduleConfig, TrainerConfig
from litedetr.settings import ConfigError


def factors(steps_per_epoch: int = 10, **settings: object) -> list[float]:
    timeline = Timeline(ScheduleConfig(**settings), steps_per_epoch)
    return [timeline.learning_rate_factor(step) for step in range(timeline.total_steps)]


def test_published_twelve_epochs_drop_tenfold_after_eleven():
    values = factors()
    assert len(values) == 120
    assert values[:110] == [1.0] * 110
    assert values[110:] == pytest.approx([0.1] * 10)


def test_several_drops_in_iterations():
    values = factors(unit="iterations", length=6, drops=(2, 4), drop_factor=0.5)
    assert values == [1, 1, 0.5, 0.5, 0.25, 0.25]


def test_warmup_rises_linearly_to_the_peak():
    assert factors(unit="iterations", length=6, drops=(5,), warmup=3)[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_cosine_begins_after_the_warmup_and_ends_near_zero():
    values = factors(unit="iterations", length=12, decay="cosine", drops=(), warmup=2)
    assert values[2] == 1.0
    assert values[7] == pytest.approx(0.5)
    assert values[2:] == sorted(values[2:], reverse=True)
    assert 0 < values[-1] < 0.03


def test_constant_decay_stays():
    assert factors(decay="constant", drops=()) == [1.0] * 120


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"drops": (12,)}, "schedule.drops"),
        ({"drops": (8, 4)}, "schedule.drops"),
        ({"decay": "cosine"}, "schedule.drops"),
        ({"batch_size": 16, "accumulate": 3}, "schedule.accumulate"),
        ({"length": 0}, "schedule.length"),
        ({"lr": -1.0}, "schedule.lr"),
        ({"clip_norm": 0.0}, "schedule.clip_norm"),
        ({"ema_decay": 1.0}, "schedule.ema_decay"),
    ],
)
def test_a_setting_that_cannot_work_is_named(settings: dict, named: str):
    with pytest.raises(ConfigError, match=named):
        ScheduleConfig(**settings)


def told(length: int = 6, warmup: int = 0, steps_per_epoch: int = 250, **trainer: object) -> list[str]:
    schedule = ScheduleConfig(length=length, decay="cosine", drops=(), warmup=warmup)
    return doubts(Timeline(schedule, steps_per_epoch), TrainerConfig(**trainer))


def test_a_warmup_longer_than_the_run_is_told_with_what_to_set():
    (line,) = told(warmup=150, steps_per_epoch=1)
    assert line == (
        "warning: schedule.warmup=150 is not over within this run of 6 steps (1 an epoch), whose rates end at 4% of "
        "their peak: set schedule.warmup=0, or a larger schedule.length"
    )
    (line,) = told(warmup=80, steps_per_epoch=20)
    assert "schedule.warmup=80 is 67% of this run of 120 steps (20 an epoch): set schedule.warmup=12, or" in line


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"evaluate_every": 7}, "trainer.evaluate_every=7 is longer than this run of 1500 steps"),
        ({"evaluate_every": None, "checkpoint_every": 1500}, "trainer.checkpoint_every=1500 is not below this run"),
        ({"stop_after": 1501}, "trainer.stop_after=1501 is beyond the end of this run of 1500 steps (250 an epoch)"),
    ],
)
def test_what_lies_beyond_the_end_is_told(settings: dict, line: str):
    (found,) = told(**settings)
    assert found.startswith(f"warning: {line}")


@pytest.mark.parametrize(
    "settings",
    [{"warmup": 150}, {"warmup": 750}, {"checkpoint_every": 5000}, {"evaluate_every": None}, {"stop_after": 1500}],
)
def test_what_fits_is_not_told(settings: dict):
    """The default run's warm-up, and half of a run; what is evaluated is saved too."""
    assert told(**settings) == []
    assert told(length=1, steps_per_epoch=2) == []
