"""Who of several processes on a machine tells of an error."""

import sys
import time
from collections.abc import Callable

import pytest

from litedetr.faults.messages import one_voice


def fail_with(code: int) -> Callable[[], None]:
    def main() -> None:
        print("what is wrong", file=sys.stderr)
        sys.exit(code)

    return main


@pytest.mark.parametrize(
    ("local_rank", "code", "pauses", "heard"),
    [(None, 2, [], True), ("0", 2, [], True), ("1", 2, [5.0], True), ("3", 143, [], False)],
    ids=["alone", "first", "another", "another, after a signal"],
)
def test_only_the_first_speaks_at_once(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    local_rank: str | None,
    code: int,
    pauses: list[float],
    heard: bool,
):
    """Another one waits, with nothing said: time in which torchrun ends it."""
    if local_rank is None:
        monkeypatch.delenv("LOCAL_RANK", raising=False)
    else:
        monkeypatch.setenv("LOCAL_RANK", local_rank)
    slept = []

    def sleep(seconds: float) -> None:
        assert capsys.readouterr().err == ""
        slept.append(seconds)

    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(SystemExit) as end:
        one_voice()(fail_with(code))()
    assert end.value.code == code
    assert slept == pauses
    assert (capsys.readouterr().err == "what is wrong\n") == heard
