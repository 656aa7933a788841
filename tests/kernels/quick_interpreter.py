"""Triton's interpreter without what takes half of its time.

It puts its own functions into triton.language at a launch, and again at every call of a helper (@triton.jit) within,
which finds all of them in place.
"""

from functools import cache
from types import SimpleNamespace

import pytest
import triton.language as tl
from triton.runtime import interpreter

NOTHING_PATCHED = SimpleNamespace(restore=lambda: None)


def patch_once(monkeypatch: pytest.MonkeyPatch) -> None:
    patch = interpreter._patch_lang

    def patch_unless_patched(function):
        return patch(function) if any(map(_is_original, _languages(function))) else NOTHING_PATCHED

    monkeypatch.setattr(interpreter, "_patch_lang", patch_unless_patched)


@cache
def _languages(function) -> list:
    """The modules that are patched for a function: those that it can see."""
    return [module for module in (tl, tl.core) if any(x is module for x in function.__globals__.values())]


def _is_original(module) -> bool:
    return tl.core.is_builtin(module.load)
