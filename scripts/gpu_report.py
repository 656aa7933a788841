"""Measure the GPU that is here, and write one page of figures, for you and for a bug report.

python scripts/gpu_report.py                        # all steps, 24 minutes at most
python scripts/gpu_report.py budget=480             # in at most 480 seconds; the last steps are left out
python scripts/gpu_report.py steps=[machine,host]   # only these; they complete the page of an earlier report
python scripts/gpu_report.py steps=[]               # none: make the page again from the rows that are there
python scripts/gpu_report.py rehearse=true          # every step at tiny sizes, also without a GPU

Settings: budget, steps, rehearse, output (runs/gpu_report). Results go to <output>/<gpu>/: report.md, plots, rows.jsonl
with every figure as soon as it is known, and the output of each step in logs/. docs/gpu.md explains steps and figures.
Steps, in their order: machine, suite, attention, memory_access, host, detectors, step, training, tools, autotune.
detectors, step, training and autotune need all of the project's packages; the others torch, Triton, NumPy,
pydantic and pytest.
"""

import sys

import litedetr.cli  # noqa: F401  first, as in every script
from litedetr.tools.gpu_report.command_line import main

if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
    else:
        sys.exit(main(sys.argv[1:]))
