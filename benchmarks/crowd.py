"""Sixty people use one page at once: who is answered, with whose answer, how soon, in what memory.

Run as ``python -m benchmarks.crowd``. The server runs in a process of its own, under a memory
limit, and listens to this machine only. Every person asks about a picture of their own; some ask
for a slow method. Afterwards every answer is compared with the one that this process gives for the
same picture. The slow ones come first, so that the others find their work under way. Exit status 1
says that somebody had no answer or another's, that an instant method waited for a slow one, or that
memory was not given back.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from core import Explainer, sample_picture

SLOW = "rise(masks=100)"
INSTANT = "gradcam"
WAITS = "people wait for slow methods"
"""Part of what somebody is told whom the queue has no room for."""
BEHIND = 1.0
"""Seconds by which slow work of others may hold up an instant method, in the median and at most."""
UNDER_WAY = 8.0
"""Seconds after which slow work is under way, and those who ask for an instant method come."""
MORE_MEMORY = 1.1
"""Memory afterwards, as a share of that before."""
LIMIT = 8 * 2**30
"""Memory that the server may take, in bytes."""


@dataclass(frozen=True)
class Asked:
    """One person's question and what came of it.

    Attributes:
        person: who asked.
        method: what was asked for.
        seconds: how long it took.
        values: the map; None without one.
        told: what was said instead.
    """

    person: int
    method: str
    seconds: float
    values: NDArray[np.float32] | None
    told: str = ""


def picture(person: int) -> Image.Image:
    """A picture of this person's own: a part of a photograph, another for everybody."""
    name = ("coffee", "chelsea", "rocket", "astronaut")[person % 4]
    with Image.open(sample_picture(name)) as file:
        image = file.convert("RGB")
    width, height = image.size
    left, top = (person * 7) % (width // 4), (person * 5) % (height // 4)
    return image.crop((left, top, left + 3 * width // 4, top + 3 * height // 4))


def free_port() -> int:
    """A port that nobody listens to."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def server() -> Iterator[tuple[str, int]]:
    """The page in a process of its own: its address and the number of the process."""
    port = free_port()
    limited = f"ulimit -v {LIMIT // 1024}; exec {sys.executable} app.py --port {port}"
    process = subprocess.Popen(
        ["bash", "-c", limited],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "MALLOC_ARENA_MAX": "2"},
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                httpx.get(url, timeout=5).raise_for_status()
                break
            except httpx.HTTPError:
                time.sleep(0.2)
        yield url, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def ask(url: str, folder: Path, person: int, method: str) -> Asked:
    """Ask as one person, over HTTP."""
    began = time.perf_counter()
    with httpx.Client(base_url=f"{url}/gradio_api", timeout=600) as http:
        with (folder / f"{person}.png").open("rb") as file:
            (path,) = http.post("/upload", files={"files": file}).raise_for_status().json()
        data = {"path": path, "meta": {"_type": "gradio.FileData"}}
        body = {"picture": data, "method": method}
        event = http.post("/call/v2/explain", json=body).raise_for_status().json()["event_id"]
        text = http.get(f"/call/explain/{event}").text
    seconds = time.perf_counter() - began
    kind, _, rest = text.rpartition("event: ")[2].partition("\ndata: ")
    if kind.strip() != "complete":
        return Asked(person, method, seconds, None, rest.strip())
    (found,) = json.loads(rest)
    return Asked(person, method, seconds, np.asarray(found["values"], np.float32))


def everybody(
    url: str, folder: Path, first: Sequence[str], then: Sequence[str] = ()
) -> list[Asked]:
    """All who ask first ask at once, and those who come then while these still wait.

    Args:
        url: of the server.
        folder: holds the pictures.
        first: the methods that are asked for; of the first persons.
        then: those of the persons after them.
    """
    methods = [*first, *then]
    with ThreadPoolExecutor(len(methods)) as pool:
        jobs = []
        for person, method in enumerate(methods):
            if person == len(first):
                time.sleep(UNDER_WAY)
            jobs.append(pool.submit(partial(ask, url, folder, person, method)))
        return [job.result() for job in jobs]


def others_answers(answers: Sequence[Asked], folder: Path) -> list[int]:
    """Persons whose map is not that of their own picture."""
    explainer = Explainer()
    wrong = []
    for one in answers:
        if one.values is None:
            continue
        with Image.open(folder / f"{one.person}.png") as image:
            own = explainer.explain(image, one.method).values[0].numpy()
        if not np.allclose(one.values, own, rtol=1e-3, atol=1e-4 * float(np.abs(own).max())):
            wrong.append(one.person)
    return wrong


def memory(process: int) -> float:
    """Resident memory in MiB, as Linux tells it, once slow work has given back what it can."""
    time.sleep(5)
    pages = int(Path(f"/proc/{process}/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--people", type=int, default=60, help="how many ask at once")
    parser.add_argument("--slow", type=int, default=40, help="how many of them ask for RISE")
    options = parser.parse_args(arguments)
    instant = [INSTANT] * (options.people - options.slow)
    with tempfile.TemporaryDirectory() as name, server() as (url, process):
        folder = Path(name)
        for person in range(options.people):
            picture(person).save(folder / f"{person}.png")
        everybody(url, folder, [SLOW, INSTANT])  # the model is loaded, pools have grown
        alone = everybody(url, folder, instant)
        before = memory(process)
        crowd = everybody(url, folder, [SLOW] * options.slow, instant)
        after = memory(process)
        wrong = others_answers(crowd, folder)
    return report(alone, crowd, wrong, after / before, (before, after))


def report(
    alone: Sequence[Asked], crowd: Sequence[Asked], wrong: Sequence[int], share: float,
    mebibytes: tuple[float, float],
) -> int:  # fmt: skip
    """Print what was found; 1 if something does not hold."""
    answered = [one for one in crowd if one.values is not None]
    told = [one for one in crowd if one.values is None and WAITS in one.told]
    lost = [one for one in crowd if one.values is None and WAITS not in one.told]
    quick = [one.seconds for one in crowd if one.method == INSTANT]
    usual = [one.seconds for one in alone]
    behind = max(measure(quick) - measure(usual) for measure in (statistics.median, max))
    times = {
        "instant methods alone": usual,
        "instant methods beside slow ones": quick,
    }
    facts: dict[str, Any] = {
        "people": len(crowd),
        "answered": len(answered),
        "told that too many wait": len(told),
        "without either": [one.told[:200] for one in lost],
        "with another's answer": list(wrong),
        **{k: f"{statistics.median(v):.2f} s, at most {max(v):.2f} s" for k, v in times.items()},
        "memory before and after, MiB": f"{mebibytes[0]:.0f}, {mebibytes[1]:.0f} ({share:.2f})",
    }
    for fact, value in facts.items():
        print(f"{fact}: {value}")
    return int(bool(lost or wrong) or behind > BEHIND or share > MORE_MEMORY)


if __name__ == "__main__":
    sys.exit(main())
