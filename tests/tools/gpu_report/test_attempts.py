"""A part of a step that fails takes no other one along."""

import pytest

from litedetr.tools.gpu_report.plan import Context
from litedetr.tools.gpu_report.steps.attempts import attempts

pytest.importorskip("triton")

from litedetr.tools.gpu_report.steps import attention  # it needs Triton


def test_the_others_are_tried_and_the_step_fails_at_its_end(capsys):
    told, tried = [], []

    def step() -> None:
        with attempts(told.append) as attempt:
            for what in ("one", "two", "three"):
                with attempt(what):
                    tried.append(what)
                    if what != "two":
                        raise ValueError(f"no {what}\nmore")

    with pytest.raises(RuntimeError, match="^2 failed: one; three$"):
        step()
    assert tried == ["one", "two", "three"]
    assert told == [{"kind": "failures", "what": x, "error": f"ValueError: no {x}"} for x in ("one", "three")]
    assert "raise ValueError" in capsys.readouterr().err  # in the log, whole


def test_nothing_is_said_where_nothing_fails():
    with attempts(pytest.fail) as attempt, attempt("one"):
        pass


def test_an_interrupt_is_no_failure_of_a_part():
    with pytest.raises(KeyboardInterrupt), attempts(pytest.fail) as attempt, attempt("one"):
        raise KeyboardInterrupt


def test_an_attention_that_does_not_compile_leaves_the_others(monkeypatch, tmp_path):
    told = []

    def measure(workloads, run, ceilings):
        if workloads[0][1].score == "deformable":
            raise RuntimeError("not compiled")
        yield workloads[0][1].score

    monkeypatch.setattr(attention, "measure", measure)
    monkeypatch.setattr(attention.Ceilings, "of", lambda device: None)
    with pytest.raises(RuntimeError, match="^1 failed: deformable high grid torch.float32$"):
        attention.measure_step(Context("cpu", True, 9.0, tmp_path, lambda *_: {}), told.append)
    assert [row.get("text") for row in told] == ["key_aware_shared", None, "key_aware"]
    assert told[1]["error"] == "RuntimeError: not compiled"
