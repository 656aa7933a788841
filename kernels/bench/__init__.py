"""Measuring attentions: workloads, accuracy, peers, times, tuning. Nothing here is needed to compute one."""
