import pytest

from litedetr.config import ConfigError
from litedetr.engine import ScheduleConfig
from litedetr.engine.schedule import Timeline


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
