"""Parts of a step that do not need each other: one that fails is told, and the next one is tried."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from litedetr.tools.gpu_report.plan import Tell


class Attempts:
    """`with Attempts(tell) as attempt:`, and in it `with attempt("what"):` around each part.

    Raises RuntimeError at its end if a part failed, so that the step has failed too.
    """

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._failed: list[str] = []

    def __enter__(self) -> Attempts:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._failed:
            raise RuntimeError(f"{len(self._failed)} failed: {'; '.join(self._failed)}")

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self._failed.append(what)
            first = str(error).strip().partition("\n")[0]
            self._tell({"kind": "failures", "what": what, "error": f"{type(error).__name__}: {first}"})
