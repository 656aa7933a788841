"""How the threads of a CPU operation wait for each other; to be settled before torch is loaded."""

from __future__ import annotations

import os

SPIN_COUNT = "4000"
WAIT_SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def limit_spinning() -> None:
    """Let waiting threads sleep soon, unless the environment says how they wait. Does nothing once torch is loaded.

    OpenMP's threads spin while they wait for each other. libgomp, which PyTorch brings along on Linux, does so for
    300,000 turns: if one thread shares its core with another program, the others spin for as long as it is suspended.
    docs/reliability.md has what was measured.
    """
    if not any(name in os.environ for name in WAIT_SETTINGS):
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT
