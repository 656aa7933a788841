"""Parts of a step that do not need each other: one that fails is told, and the next one is tried."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from litedetr.tools.gpu_report.plan import Tell


@contextmanager
def attempts(tell: Tell) -> Iterator[Callable[[str], AbstractContextManager[None]]]:
    """`with attempts(tell) as attempt:`, and in it `with attempt("what"):` around each part.

    Raises RuntimeError at its end if a part failed, so that the step has failed too.
    """
    failed: list[str] = []

    @contextmanager
    def attempt(what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            failed.append(what)
            first = str(error).strip().partition("\n")[0]
            tell({"kind": "failures", "what": what, "error": f"{type(error).__name__}: {first}"})

    yield attempt
    if failed:
        raise RuntimeError(f"{len(failed)} failed: {'; '.join(failed)}")
