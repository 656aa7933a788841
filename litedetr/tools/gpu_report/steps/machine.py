"""The machine that is measured: card, driver, versions, and the speed of its memory and its matrix units."""

from __future__ import annotations

import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version

import torch

from litedetr.kernels.bench.ceilings import Ceilings
from litedetr.tools.gpu_report.plan import Context, Row, Tell

PACKAGES = ("torch", "triton", "numpy", "deformops", "transformers", "hydra-core", "pycocotools")
TERA = 1e12
DRIVER_QUERY = "driver_version,vbios_version,power.limit,clocks.max.sm,clocks.max.mem,pcie.link.gen.max"
DRIVER_SECONDS = 20


def measure_step(context: Context, tell: Tell) -> None:
    tell({"kind": "versions", "python": platform.python_version(), "system": platform.platform()} | _versions())
    device = torch.device(context.device)
    tell({"kind": "card"} | (_card(device) if device.type == "cuda" else {"name": platform.machine()}))
    if device.type == "cuda" and shutil.which("nvidia-smi"):
        tell({"kind": "driver"} | _driver(device))
    ceilings = Ceilings.of(device)
    products = {f"{name}_tflop_per_s": rate / TERA for name, rate in ceilings.products.items()}
    caches = {"l1_tb_per_s": ceilings.l1 and ceilings.l1 / TERA}
    tell({"kind": "ceilings", "copy_tb_per_s": ceilings.bandwidth / TERA} | caches | products)


def _versions() -> dict[str, str]:
    found = {"cuda": str(torch.version.cuda), "hip": str(torch.version.hip)}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _card(device: torch.device) -> Row:
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "memory_gib": properties.total_memory / 2**30,
        "multiprocessors": properties.multi_processor_count,
        "l2_mib": properties.L2_cache_size / 2**20,
        "capability": f"{properties.major}.{properties.minor}",
    }


def _driver(device: torch.device) -> dict[str, str]:
    """Of this card among those of the machine, which nvidia-smi numbers in an order of its own."""
    card = f"--id=GPU-{torch.cuda.get_device_properties(device).uuid}"
    command = ["nvidia-smi", card, f"--query-gpu={DRIVER_QUERY}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=DRIVER_SECONDS)
    except subprocess.TimeoutExpired:
        return {"error": f"nvidia-smi did not answer within {DRIVER_SECONDS} s"}
    names, values = DRIVER_QUERY.split(","), answer.stdout.strip().split(", ")
    if answer.returncode != 0 or len(values) != len(names):
        return {"error": (answer.stdout + answer.stderr).strip()}
    return dict(zip(names, values, strict=True))
