"""Compiles launches in other processes before they are tried, into Triton's cache on disk.

A process needs no GPU: Triton is told the target, and gets arguments without memory. A launch then finds its program in
the cache, under the key that Triton itself works out for both.
"""

from __future__ import annotations

import hashlib
import math
import multiprocessing
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, replace
from itertools import count
from multiprocessing.connection import Connection
from queue import PriorityQueue
from threading import Thread
from typing import Any

from triton.backends.compiler import GPUTarget

from litedetr.kernels.bench.jobs import Job
from litedetr.kernels.bench.resources import Compiler, compiling_for, walk
from litedetr.kernels.fused.candidates import candidates
from litedetr.kernels.fused.launch import AnyLaunch, rule

MOST_SPILLED = 32  # bytes of a thread: a few predicates; a tile that spills is slow
START_SECONDS = 180  # for a process to import torch and Triton, many of them at once
STOP = -1  # more urgent than any job


@dataclass(frozen=True)
class Task:
    """A launch to compile."""

    job: Job  # whose kernels are compiled
    launch: AnyLaunch  # of its pass


@dataclass(frozen=True)
class Compiled:
    """The result of a task."""

    fingerprint: str  # of its programs
    spilled: int  # bytes of local memory of a thread


@dataclass
class Compilers:
    """Processes that compile tasks, the most urgent first. One that takes too long is killed and replaced."""

    target: GPUTarget  # to compile for
    workers: int  # processes at a time
    seconds: float  # for one task
    _tasks: PriorityQueue = field(default_factory=PriorityQueue)  # (urgency, order, task, future)
    _order: Iterator[int] = field(default_factory=count)  # of tasks of the same urgency
    _threads: list[Thread] = field(default_factory=list)  # one for each process
    _processes: list[Process] = field(default_factory=list)  # all that were started

    def __enter__(self) -> Compilers:
        self._threads += [Thread(target=self._work, daemon=True) for _ in range(self.workers)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Drops the tasks that are not compiled."""
        for _thread in self._threads:
            self._tasks.put((STOP, next(self._order), None, None))
        for process in list(self._processes):
            process.end()
        for thread in self._threads:
            thread.join()

    def submit(self, urgency: int, task: Task) -> Future[Compiled | str]:
        """The result is a string if the task does not compile: the reason. urgency: smallest first."""
        future = Future()
        self._tasks.put((urgency, next(self._order), task, future))
        return future

    def _work(self) -> None:
        """The loop of one thread, which has a process of its own and waits for it."""
        process = None
        while True:
            *_, task, future = self._tasks.get()
            if task is None:
                break
            try:
                process = process or self._new_process()
                future.set_result(process.ask(task, self.seconds))
            except TimeoutError:
                future.set_result(f"not compiled within {self.seconds:g} s")
                process = self._without(process)
            except Exception as error:  # the process died or did not start
                future.set_result(f"its compiler failed: {error!r}")
                process = self._without(process)
        self._without(process)

    def _new_process(self) -> Process:
        process = Process(self.target)
        self._processes.append(process)
        try:
            process.receive(START_SECONDS)
        except TimeoutError as error:
            process.end()
            raise RuntimeError(f"not ready within {START_SECONDS} s") from error
        return process

    def _without(self, process: Process | None) -> None:
        if process is not None:
            process.end()


class Process:
    """One compiler; its first message says that it is ready."""

    def __init__(self, target: GPUTarget) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would share the GPU's context
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, target), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, task: Task, seconds: float) -> Compiled | str:
        """Raises TimeoutError, or EOFError and OSError if the process is dead."""
        self.connection.send(task)
        return self.receive(seconds)

    def receive(self, seconds: float) -> Any:
        if not self.connection.poll(seconds):
            raise TimeoutError
        return self.connection.recv()

    def end(self) -> None:
        self.process.kill()


def serve(connection: Connection, target: GPUTarget) -> None:
    """Compile the tasks that come through `connection`, until its other side is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: who started this process ends it
    connection.send(True)
    with compiling_for(target):
        while True:
            try:
                task = connection.recv()
            except EOFError:
                return
            try:
                connection.send(compile_task(task, target))
            except Exception as error:  # whatever Triton and the assembler raise; it may not be pickled
                connection.send(f"{type(error).__name__}: {str(error).strip()}"[-300:])


def compile_task(task: Task, target: GPUTarget) -> Compiled:
    """So that a launch finds the program in the cache. Needs `compiling_for`."""
    compiler = Compiler(target)
    walk(task.job, task.launch, compiler)
    binary = "cubin" if target.backend == "cuda" else "hsaco"
    digest = hashlib.sha256(b"".join(program.asm[binary] for program in compiler.programs)).hexdigest()
    return Compiled(digest, max(found.spilled for found in compiler.resources))


@dataclass
class Ahead:
    """Compiles the launches of a job, then those of the next one, and says which ones to leave out."""

    compilers: Compilers  # entered already
    jobs: Sequence[Job]  # in the order in which they are tuned
    deadline: float = math.inf  # of time.monotonic: what is not compiled then is left out
    _futures: dict[tuple[int, AnyLaunch], Future] = field(default_factory=dict)  # by number of the job and launch
    _programs: dict[object, AnyLaunch] = field(default_factory=dict)  # the first launch with each program

    def prepare(self, number: int, launches: Sequence[AnyLaunch]) -> Mapping[AnyLaunch, str]:
        """See tuning.Prepare. number: of the job."""
        self._submit(number, launches)
        if number + 1 < len(self.jobs):
            self._submit(number + 1, candidates(self.jobs[number + 1].shape))
        futures = [self._futures[number, item] for item in launches]
        wait(futures, None if math.isinf(self.deadline) else max(0.0, self.deadline - time.monotonic()))
        reasons = {item: self._obstacle(number, item, future) for item, future in zip(launches, futures, strict=True)}
        return {item: reason for item, reason in reasons.items() if reason is not None}

    def _submit(self, number: int, launches: Sequence[AnyLaunch]) -> None:
        for item in launches:
            if (number, item) not in self._futures:
                self._futures[number, item] = self.compilers.submit(number, Task(self.jobs[number], item))

    def _obstacle(self, number: int, item: AnyLaunch, future: Future) -> str | None:
        if not future.done():
            return "not compiled before the time was up"
        found = future.result()
        if isinstance(found, str):
            return found
        twin = self._programs.setdefault((number, found.fingerprint, replace(item, num_stages=None)), item)
        if twin != item:
            return f"the same program as with num_stages={twin.num_stages}"
        is_rule = item == rule(self.jobs[number].shape)
        return f"spills {found.spilled} bytes" if found.spilled > MOST_SPILLED and not is_rule else None
