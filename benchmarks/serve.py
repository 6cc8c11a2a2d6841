"""The explorer under load: 20 people at once on a run of 65,536 latents with 50 contexts each, and what that takes in memory.

The run is made: cards of words drawn by Zipf's law, with evidence, quantiles, neighbors, associations, written through `write_catalogue` in blocks, their
contexts appended to its table. The server is a process of its own, `sparselight serve`; the people are coroutines of another one on the same machine, with
plain HTTP/1.1 over loopback, so what they take of the processor counts against us. Each asks for page data in a seeded mix: overview, a part of the list, a
search (its text drawn by Zipf's law too; the goal is for texts that nobody has searched before), a feature nobody has asked for yet, its page. Measured
twice: with a pause of a second on average between two requests of a person, as when somebody looks at pages, and with none at all; then each kind by itself,
in processor time of the server, which says the same on a busy machine. A time is from the request's first byte to the answer's last. The first overview
after the start is timed twice: of a run that nobody has opened before, whose catalogue is put together then, and at the next start. Memory is the server's
resident set: its most.
Run: `python benchmarks/serve.py [--latents 65536] [--contexts 50] [--users 20] [--seconds 30] [--keep FOLDER] [--small]`; writes results/serve.json.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote, urlsplit

import numpy as np
import pyarrow as pa
import torch

from sparselight import __version__
from sparselight.interpret.catalogue import FILE_NAME
from sparselight.interpret.catalogue.tables import SCHEMAS
from sparselight.interpret.catalogue.writing import update
from sparselight.interpret.evidence import graded
from sparselight.pipeline.engine import machine
from sparselight.records import Association, Card, Evidence, Explanation, MetricValue, Neighbour
from sparselight.testing.run_folder import MadeRun, make_run_folder

RESULT = Path(__file__).parent / "results" / "serve.json"
N_WORDS, WINDOW, BLOCK = 20_000, 24, 1024
GOAL = {"page_p95_ms": 100, "search_p95_ms": 50, "first_overview_s": 1, "memory_mb": 1024}
RUN = "bench"
KINDS = ("overview", "list", "search", "search again", "feature", "feature page")
N_ALONE = 60
"""Requests of one kind, one after the other."""


def words() -> list[str]:
    return [f" w{number:05}" for number in range(N_WORDS)]


def value(number: float) -> MetricValue:
    return MetricValue(value=number, low=max(0.0, number - 0.05), high=min(1.0, number + 0.05), n=200)


def cards(n_latents: int, n_tokens: int, seed: int) -> Iterator[list[Card]]:
    """All cards, in blocks, without contexts: three latents in four belong to the base SAE, the others to the residual one."""
    rng, names = np.random.default_rng(seed), words()
    evidence = [Evidence(precision=value(f1), recall=value(f1), f1=value(f1), control_f1=value(0.1 * f1), threshold=0.5, n_fires=200, n_labelled=200)
                for f1 in np.linspace(0, 1, 101).tolist()]
    n_base = 3 * n_latents // 4
    for start in range(0, n_latents, BLOCK):
        block = range(start, min(start + BLOCK, n_latents))
        drawn, rates = zipf(rng, (len(block), 20)), 10 ** rng.uniform(-5, -1, len(block))
        block_cards = []
        for number, own, rate in zip(block, drawn, rates.tolist(), strict=True):
            source, latent = ("base", number) if number < n_base else ("residual", number - n_base)
            word, found = names[own[0]].strip(), evidence[int(rng.integers(101))]
            explanation = Explanation(text=f"the word `{word}` before `{names[own[1]].strip()}`", label=f"word={word}", explainer="statistical", evidence=found)
            near = [Neighbour(source=source, latent=int(other), cosine=0.5) for other in rng.integers(0, n_latents // 4, 6)]
            association = Association(kind="kind", label=f"annotation {own[2]}", dataset="general", level="spans", f1=found.f1, null_f1=0.1, q=0.01)
            block_cards.append(graded(Card.model_construct(
                latent=latent, source=source, fire_rate=rate, domain_fire_rate=min(1.0, 3 * rate * float(rng.random())), max_activation=10.0,
                explanation=explanation, explanations=[explanation], contexts=[], promotes=[names[one] for one in own[:10]],
                suppresses=[names[one] for one in own[10:]], grade="D", grade_why="", neighbours=near, parents=[], associations=[association], edits=[],
                n_fires=int(rate * n_tokens), n_tokens=n_tokens, quantiles=np.sort(rng.gamma(2.0, 1.0, 11)).tolist())))
        yield block_cards


def add_contexts(catalogue: Path, n_latents: int, n_contexts: int, seed: int) -> None:
    """Fill the table of contexts, as Arrow tables of its schema: as pydantic records, three million of them would take a quarter of an hour."""
    rng, names = np.random.default_rng(seed), pa.array(words())
    kinds = ([("top", None)] * 10 + [("quantile", part) for part in range(5) for _ in range(6)] + [("random", None)] * n_contexts)[:n_contexts]

    def change(connection: Any) -> None:
        for start in range(0, n_latents, BLOCK):
            n_cards = min(BLOCK, n_latents - start)
            n = n_cards * n_contexts
            activations = np.zeros(n * WINDOW)
            active = rng.random(n * WINDOW) < 0.12
            activations[active] = rng.gamma(2.0, 1.0, int(active.sum())).round(4)
            ends = pa.array(np.arange(0, n * WINDOW + 1, WINDOW, dtype=np.int32))
            numbers = pa.array(np.char.add("text ", rng.integers(0, 100_000, n).astype(str)))
            table = pa.table({
                "card": np.repeat(np.arange(start, start + n_cards), n_contexts), "shown": np.tile(np.arange(n_contexts), n_cards),
                "kind": pa.array([kind for kind, _ in kinds] * n_cards), "quantile": pa.array([part for _, part in kinds] * n_cards, pa.int64()),
                "example": numbers, "group": numbers, "tokens": pa.ListArray.from_arrays(ends, names.take(pa.array(zipf(rng, n * WINDOW)))),
                "activations": pa.ListArray.from_arrays(ends, pa.array(activations)), "peak": activations.reshape(n, WINDOW).argmax(1),
                "start": np.full(n, 40), "marks": pa.array([[]] * n, pa.list_(pa.string())), "media": pa.nulls(n, pa.string()),
                "grid": pa.nulls(n, pa.list_(pa.int64())), "others": pa.array([[]] * n, SCHEMAS["contexts"].field("others").type),
            }).cast(SCHEMAS["contexts"])
            connection.register("rows", table)
            connection.execute("INSERT INTO contexts BY NAME SELECT * FROM rows")
            connection.unregister("rows")

    update(catalogue, change)


def zipf(rng: np.random.Generator, shape: Any) -> np.ndarray:
    """Numbers of words, drawn by Zipf's law: the inverse of its distribution over real numbers."""
    return np.minimum(N_WORDS - 1, N_WORDS ** rng.random(shape) - 1).astype(np.int64)


class Person:
    """One browser with one kept connection."""

    searched: ClassVar[set[str]] = set()
    """Texts that somebody has searched, of whom the server may remember the answer."""

    def __init__(self, port: int, n_latents: int, seed: int, pause_s: float):
        self.port, self.n_latents, self.rng, self.pause_s = port, n_latents, random.Random(seed), pause_s
        self.times: list[tuple[str, float]] = []

    async def look(self, until: float) -> None:
        """Ask until the time is over."""
        await asyncio.sleep(self.rng.random() * self.pause_s)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**22)
        try:
            while time.perf_counter() < until:
                kind, path = self.choose()
                began = time.perf_counter()
                await self.ask(reader, writer, path)
                self.times.append((kind, time.perf_counter() - began))
                await asyncio.sleep(self.rng.expovariate(1 / self.pause_s) if self.pause_s else 0)
        finally:
            writer.close()

    def choose(self) -> tuple[str, str]:
        at, base = self.rng.random(), f"/api/runs/{RUN}"
        feature = f"base/{self.rng.randrange(3 * self.n_latents // 4)}"
        if at < 0.1:
            return "overview", f"{base}/overview"
        if at < 0.4:
            sort = self.rng.choice(("grade", "f1", "fire_rate", "domain_ratio"))
            return "list", f"{base}/features?sort={sort}&offset={self.rng.randrange(self.n_latents // 2)}&limit=100"
        if at < 0.65:
            text = f"w{int(20_000 ** self.rng.random()) - 1:05}"[:self.rng.randint(3, 6)]
            kind = "search again" if text in self.searched else "search"
            self.searched.add(text)
            return kind, f"{base}/features?text={quote(text)}&limit=100"
        return ("feature", f"{base}/features/{feature}") if at < 0.9 else ("feature page", f"/runs/{RUN}/features/{feature}")

    async def ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> int:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        if " 200 " not in head.partition("\r\n")[0]:
            raise SystemExit(f"{path}: {head.partition(chr(13))[0]}")
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        return len(await reader.readexactly(length))


async def crowd(port: int, options: argparse.Namespace, pause_s: float) -> list[tuple[str, float]]:
    people = [Person(port, options.latents, 1000 * number + round(pause_s), pause_s) for number in range(options.users)]
    until = time.perf_counter() + options.seconds
    await asyncio.gather(*(person.look(until) for person in people))
    return [entry for person in people for entry in person.times]


def summary(times: list[tuple[str, float]], seconds: float) -> dict[str, Any]:
    """By kind: how many, and quantiles in milliseconds."""
    found: dict[str, Any] = {"requests": len(times), "requests_per_s": round(len(times) / seconds, 1), "kinds": {}}
    for kind in (*KINDS, "all"):
        own = np.array([1e3 * took for name, took in times if kind in (name, "all")])
        if len(own):
            found["kinds"][kind] = {"n": len(own), **{f"p{share}_ms": round(float(np.percentile(own, share)), 1) for share in (50, 95, 99)},
                                    "max_ms": round(float(own.max()), 1)}
    return found


def memory_mb(pid: int, what: str) -> float:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(what))
    return round(int(line.split()[1]) / 1024, 1)


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[tuple[int, int, float]]:
    """A server in a process of its own: its id, its port, the seconds until it told them."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "sparselight", "serve", str(folder), "--port", "0", "--no-open", "--json"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        assert server.stdout is not None
        port = urlsplit(json.loads(server.stdout.readline())["url"]).port
        assert port is not None
        yield server.pid, port, time.perf_counter() - began
    finally:
        server.terminate()
        server.wait(60)


def first_looks(port: int, options: argparse.Namespace) -> tuple[float, float]:
    """Seconds until the overview was there, and until everything that a server reads when it starts."""
    began, person = time.perf_counter(), Person(port, options.latents, 0, 0)
    overview = asyncio.run(once(person, f"/runs/{RUN}"))
    while not asyncio.run(has_peaks(person)):
        time.sleep(0.2)
    return round(overview, 2), round(time.perf_counter() - began, 1)


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    (folder / FILE_NAME).unlink(missing_ok=True)  # as after a run that nobody has looked at
    shutil.rmtree(folder / "explorer", ignore_errors=True)
    result: dict[str, Any] = {}
    with serving(folder) as (pid, port, _):
        result["never_opened"] = dict(zip(("first_overview_s", "warm_s"), first_looks(port, options), strict=True)) | {"memory_mb": memory_mb(pid, "VmHWM")}
    with serving(folder) as (pid, port, start_s):
        result |= {"start_s": round(start_s, 1), "imports_mb": memory_mb(pid, "VmRSS")}
        result["first_overview_s"], result["warm_s"] = first_looks(port, options)
        person = Person(port, options.latents, 0, 0)
        result["overview_page_ms"] = round(1e3 * min(asyncio.run(once(person, f"/runs/{RUN}")) for _ in range(5)), 1)
        for name, pause_s in (("looking", 1.0), ("without_pause", 0.0)):
            cpu = cpu_s(pid)
            result[name] = summary(asyncio.run(crowd(port, options, pause_s)), options.seconds)
            took = cpu_s(pid) - cpu
            result[name]["server_cpu_frac"] = round(took / options.seconds, 2)
            result[name]["cpu_ms_a_request"] = round(1e3 * took / result[name]["requests"], 2)
        result["cpu_ms"] = {kind: asyncio.run(alone(kind, pid, port, options)) for kind in KINDS}
        result |= {"memory_mb": memory_mb(pid, "VmHWM"), "memory_now_mb": memory_mb(pid, "VmRSS")}
    return result


async def alone(kind: str, pid: int, port: int, options: argparse.Namespace) -> float:
    """Milliseconds of processor time that the server takes for one request of a kind."""
    person = Person(port, options.latents, 77, 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**22)
    paths = []
    while len(paths) < N_ALONE:
        chosen, path = person.choose()
        paths += [path] if chosen == kind else []
    began = cpu_s(pid)
    for path in paths:
        await person.ask(reader, writer, path)
    writer.close()
    return round(1e3 * (cpu_s(pid) - began) / N_ALONE, 2)


async def once(person: Person, path: str) -> float:
    reader, writer = await asyncio.open_connection("127.0.0.1", person.port, limit=2**22)
    began = time.perf_counter()
    await person.ask(reader, writer, path)
    writer.close()
    return time.perf_counter() - began


async def has_peaks(person: Person) -> bool:
    """Whether lists show peak tokens: the last thing that a server reads when it starts."""
    reader, writer = await asyncio.open_connection("127.0.0.1", person.port, limit=2**22)
    writer.write(f"GET /api/runs/{RUN}/features?limit=1 HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return bool(json.loads(answer.partition(b"\r\n\r\n")[2])["rows"][0]["peak_tokens"])


def cpu_s(pid: int) -> float:
    parts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")


def main(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="serve-") as scratch:
        folder = (options.keep or Path(scratch)) / RUN
        if not (folder / "run.json").exists():
            began = time.perf_counter()
            made = MadeRun(name="A made run", summaries={"corpus": {"n_examples": 100_000, "n_groups": 1_000}})
            make_run_folder(folder, cards(options.latents, options.tokens, seed=0), made)
            add_contexts(next(folder.glob("explain-*/catalogue.duckdb")), options.latents, options.contexts, seed=1)
            print(f"made in {time.perf_counter() - began:.0f} s", file=sys.stderr)
        if options.make_only:
            sys.exit()
        size = next(folder.glob("explain-*/catalogue.duckdb")).stat().st_size
        load = os.getloadavg()[0]
        return {"machine": machine(), "sparselight": __version__, "date": time.strftime("%Y-%m-%d"), "load_before": round(load, 2),
                "threads": 1, "torch": str(torch.__version__), "n_latents": options.latents, "n_contexts": options.contexts, "n_tokens": options.tokens,
                "catalogue_mb": round(size / 2**20), "users": options.users, "seconds": options.seconds, "goal": GOAL, **measure(folder, options)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latents", type=int, default=65_536)
    parser.add_argument("--contexts", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=10_000_000)
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--keep", type=Path, help="where the made run is kept and found again")
    parser.add_argument("--make-only", action="store_true", help="with --keep: make the run and measure nothing")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--small", action="store_true", help="see that it works: little data, no useful numbers")
    options = parser.parse_args()
    if options.small:
        options.latents, options.contexts, options.users, options.seconds = 2048, 20, 4, 3
    result = main(options)
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    everything, search = result["looking"]["kinds"]["all"], result["looking"]["kinds"]["search"]
    print(f"{result['n_latents']:,} latents, {result['users']} users: p95 {everything['p95_ms']:.0f} ms, of a search {search['p95_ms']:.0f} ms, "
          f"{result['memory_mb']:.0f} MB; written to {options.out}")
