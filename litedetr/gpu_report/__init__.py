"""What one command tells of the GPU that is here: steps, each in a process of its own, and the page made of their rows.

    config.py    settings of scripts/gpu_report.py
    plan.py      the steps, most valuable first
    report.py    runs them within a budget
    child.py     one process with a time limit
    rows.py      the file that every figure goes to at once
    page.py tables.py plots.py    what is made of it at the end

    machine.py suite.py attention.py memory_access.py host.py detectors.py step.py training.py tools.py autotune.py
                 a step each: a function that yields its rows

Nothing here is imported before the step that needs it runs: the kernels' steps need torch, Triton, NumPy and pytest
only.
"""
