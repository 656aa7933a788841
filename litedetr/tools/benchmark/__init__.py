"""Times of whole detectors, of the attentions, and of one detector over the size of its images.

benchmark_config.py    settings of scripts/benchmark.py
time_rows.py           what is timed: a function for each kind of row, which the script calls
model_rows.py model_plot.py scale.py    what becomes of the times
timed_detectors.py peers.py    detectors, ours and those of transformers, as steps to be timed
machine.py             clocks, and what the figures hold for
"""
