"""What the columns of a table mean, by kind of row. It stands above the table; a kind may do without."""

from __future__ import annotations

LEGEND = {
    "ceilings": (
        "What this machine reaches when it does nothing else. `copy_tb_per_s`: 10^12 bytes a second of a large copy, "
        "reads and writes counted. `..._tflop_per_s`: 10^12 operations a second of a large matrix product. "
        "`l1_tb_per_s`: 10^12 bytes a second of all first-level caches, computed from the clock, not measured."
    ),
    "tests": "Counts while the tests ran; the last row has all of them if it has an `exit_code`.",
    "attention": (
        "`run`: `forward`, or `training` for forward and backward. `milliseconds`: what `ratio` (over ours) compares, "
        "of the kind that `timed` says. `warm_ms`: replays of a CUDA graph; `cold_ms`: the same with the L2 cache "
        "overwritten before each call; `eager_ms`: calls from Python, one behind the other; `host_us`: microseconds "
        "until the host has enqueued a call. `limit_ms`: the least time that moving the bytes takes; `limit_share`: "
        "its share of the cold time. `peak_mib`: memory on top of the inputs. `out_error`, `grad_error`: relative RMS "
        "error of the output and of the worst gradient, beside the reference in fp32."
    ),
    "atomics": (
        "Rows of 32 numbers are added to a table (`stores`: written, to compare with). `where`: `random` rows of all "
        "levels, of the `coarse` one (many additions to the same row), or neighbours in `raster` order. "
        "`tera_lanes_per_s`: 10^12 numbers a second; `tb_per_s`: the same in 10^12 bytes a second."
    ),
    "gathers": (
        "Rows of 64 bytes are read from a table. `few tokens` fit into a first-level cache, `all tokens` do not. "
        "Two heads in turn share a line of 128 bytes. `tb_per_s`: 10^12 bytes a second of the rows."
    ),
    "host": (
        "`host_us`: microseconds until the host has enqueued a call; `eager_us`: microseconds a call when calls follow "
        "each other. If both are about the same, the GPU waits for the host."
    ),
    "detectors": (
        "`eager_ms`: a batch, from images on the device to detections. `graph_ms`: the same replayed from a CUDA "
        "graph; `note` says why there is none. `backbone_...`: the backbone's share. `host_us`: microseconds until the "
        "host has enqueued a batch. `peak_mib`: memory on top of weights and images. `parameters_m`: millions."
    ),
    "settings": "The first detector with one of PyTorch's settings changed; columns as above.",
    "training step": (
        "Losses, backward pass and optimiser included, on random images with ten objects each. `host_us`: microseconds "
        "until the host has enqueued a step, its waits included. `peak_mib`: memory on top of what a step begins with."
    ),
    "waits": "Operators of one step at which the host waits until the GPU is done, and the line that calls them.",
    "largest kernels": "Of one step. `ms`: all calls together; `share`: of the time of all kernels.",
    "evaluations": (
        "On the validation images, after each epoch. `seconds`: since the start. `loss`, `images_per_second` and "
        "`data_share` (share of the time spent waiting for images): of the last training step logged before."
    ),
    "compute-sanitizer": "`memcheck`: reads and writes out of bounds; `racecheck`: races. `clean`: none was found.",
    "ncu": "Hardware counters of one launch of each kernel.",
    "launches": (
        "`rule_ms`: with the launch that is used without a tuned file; `ms`: with the fastest one found; `ratio`: the "
        "first over the second. `run`: which pass."
    ),
}
