"""Jobs, each a process of its own: one that fails, hangs or runs out of memory is recorded and never stops the others."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.gpu.record import record

OK = "ok"
MEMORY = re.compile(r"OutOfMemoryError|CUDA out of memory|GPU's memory is full|MemoryError")
POLL = 0.05  # seconds between two looks
TAIL = 4000  # characters at the end of a job's output that are searched for what went wrong


@dataclass(frozen=True)
class Job:
    """A process to run.

    Attributes:
        name: Unique.
        command: Its words.
        seconds: The most it may take; then it is killed with all of its children.
        needs: Jobs that must have ended well before it starts.
        alone: Whether nothing may run beside it, because it measures time.
        cores: How many it keeps busy.
        urgent: Whether it starts as soon as its needs allow, however busy the cores are.
        environment: Variables beyond this process's own.
    """

    name: str
    command: Sequence[str]
    seconds: float
    needs: tuple[str, ...] = ()
    alone: bool = False
    cores: float = 1
    urgent: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)


def _descendants(process: int) -> list[int]:
    """List the children of a process, their children and so on; none where the system has no /proc."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # the name in brackets may hold blanks; behind it come state and parent
            parents.setdefault(int(stat.read_text().rpartition(")")[2].split()[1]), []).append(int(stat.parent.name))
    found = list(parents.get(process, []))
    for child in found:
        found += parents.get(child, [])
    return found


@dataclass
class _Running:
    job: Job
    process: subprocess.Popen[bytes]
    started: float
    log: Path

    def kill(self) -> None:
        # all descendants: loading processes would keep the GPU's memory, and torchrun's are sessions of their own
        for process in _descendants(self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def run_jobs(jobs: Sequence[Job], *, seconds: float, cores: int, out: Path, logs: Path) -> dict[str, str]:
    """Run jobs in their order as far as needs and cores allow, and record how each of them ended.

    Args:
        jobs: The jobs; one that is to run alone waits for those before it and is not overtaken.
        seconds: All of the time there is: what then still runs is killed, what waits is not started.
        cores: How many there are. A job that keeps more of them busy runs when no other does.
        out: The folder of results.
        logs: Where the jobs' output goes, a file each.

    Returns:
        How each job ended: `ok`, or what went wrong.
    """
    deadline = time.monotonic() + seconds
    logs.mkdir(parents=True, exist_ok=True)
    waiting, running, ended = list(jobs), list[_Running](), dict[str, str]()

    def end(job: Job, status: str, spent: float = 0.0) -> None:
        ended[job.name] = status
        record(out, "job", job=job.name, status=status, seconds=round(spent, 1))
        print(f"{job.name}: {status}, {spent:.0f} s; {max(0, deadline - time.monotonic()):.0f} s left", flush=True)

    try:
        while waiting or running:
            now = time.monotonic()
            for each in list(running):
                spent = now - each.started
                code = each.process.poll()
                if code is None and spent < each.job.seconds and now < deadline:
                    continue
                running.remove(each)
                each.kill()
                limit = "too long" if spent >= each.job.seconds else "out of time"
                end(each.job, _status(code, each.log) if code is not None else f"killed: {limit}", spent)
            if now >= deadline:
                for job in waiting:
                    end(job, "not started: out of time")
                break
            for job in list(waiting):
                lost = [need for need in job.needs if ended.get(need, OK) != OK]
                if lost:
                    waiting.remove(job)
                    end(job, f"not started: {lost[0]} is missing")
                elif any(need not in ended for need in job.needs):
                    continue
                elif any(each.job.alone for each in running) or (job.alone and running):
                    break
                elif job.urgent or not running or sum(each.job.cores for each in running) + job.cores <= cores:
                    waiting.remove(job)
                    running.append(_start(job, logs))
            time.sleep(POLL)
    finally:
        for each in running:  # this process was interrupted
            each.kill()
    return ended


def _start(job: Job, logs: Path) -> _Running:
    log = logs / f"{job.name}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            job.command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **job.environment},
            start_new_session=True,
        )
    return _Running(job, process, time.monotonic(), log)


def _status(code: int, log: Path) -> str:
    if code == 0:
        return OK
    text = log.read_bytes()[-TAIL:].decode(errors="replace")
    if MEMORY.search(text):
        return "out of memory"
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    lines = [line.strip() for line in re.split(r"[\r\n]", text) if line.strip()]
    return f"failed: {lines[-1] if lines else f'exit code {code}'}"
