"""Hundreds of mixed prompts from several clients at one real ComfyUI: does it stay right, clean and of one size?

    python -m nox -s endurance
    python -m nox -s endurance -- --prompts 40 --clients 2 --seed 1

All example workflows with varying seeds, references, strengths and formats; Refine LoRA; encoding, blending, saving and
loading LoRAs; prompts that are wrong or are interrupted; POST /free now and then. Writes output/endurance/prompts.csv
and rss.png, prints a table, and ends with a code other than 0 if

1. a prompt does not end as it has to, with an image, a file or the error that is right for it;
2. the same prompt, sent early, in the middle and at the end, does not give the same image bit for bit;
3. the server's RSS after all prompts is more than 2 % above that after the first fifth (100 of 500);
4. there is a partial file in the output, temp or models folders.

Seconds per prompt are reported and never judged: they depend on what else the machine does.

The RSS of (3) is compared in one defined state, since while prompts run it depends on which models and results happen
to be cached. Every client waits and nothing runs; the host's history of prompts, which holds up to 10,000 of them, is
cleared; POST /free has unloaded all models and dropped all cached results; Python has collected its garbage; and
`malloc_trim` has returned free memory. glibc keeps that for later, and how much of it varies by more than 2 %, up and
down, also in a host that runs no node of ours (`--core-only`). What is left is memory that is still in use. The RSS
before trimming is printed, too; without `malloc_trim` they are the same.
"""

import argparse
import hashlib
import re
import shutil
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty, SimpleQueue
from random import Random
from threading import Event, Lock

import psutil
import requests
from tqdm import tqdm

from miniature.comfyui.host import Host, HostError, prepare_base
from miniature.paths import ROOT, WEIGHTS
from training.comfyui_client import Client, PromptError, Result

from .endurance_prompts import CorePrompts, Job, Prompts, Request, plan
from .endurance_results import (
    MEBIBYTE,
    Idle,
    Record,
    check_growth,
    check_leftovers,
    check_outcomes,
    check_probes,
    draw_chart,
    files_below,
    growth,
    seconds_table,
    write_csv,
)
from .endurance_wrong_prompts import WrongPrompts, install_nodes

OUTPUT = ROOT / "output" / "endurance"
FREE_EVERY = 30
"""Prompts between two POST /free while others run."""
POLL_SECONDS = 0.05
MAX_SECONDS = 600.0
"""From queueing to the end of a prompt, those before it included."""
SETTLE_SECONDS = 20.0
"""Within which the idle server's memory stops changing."""


class RunStoppedError(Exception):
    """The run is ended by Ctrl-C."""


class EnduranceRun:
    """The clients of one server, and what they record."""

    def __init__(self, host: Host, bar: tqdm) -> None:
        """Attach to a running server.

        Args:
            host: The server.
            bar: Advances with every prompt that has ended.
        """
        self.host, self.records, self.idle = host, list[Record](), list[Idle]()
        self._bar, self._process = bar, psutil.Process(host.pid)
        self._lock, self._stop, self._sent = Lock(), Event(), 0

    def run_round(self, jobs: Sequence[Job], clients: int) -> None:
        """Let clients send jobs at once until all have ended, then measure the idle server."""
        waiting: SimpleQueue[Job] = SimpleQueue()
        for job in jobs:
            waiting.put(job)
        with ThreadPoolExecutor(clients) as pool:
            running = [pool.submit(self._work, waiting) for _ in range(clients)]
            try:
                for future in running:
                    future.result()
            except BaseException:
                self._stop.set()
                raise
        client = Client(self.host.url)
        clear_history(self.host.url)
        client.free()
        freed = self._settled_rss()
        client.run({"1": {"class_type": "DiffLoRATestTrimMemory", "inputs": {"call": len(self.records)}}})
        self.idle.append(Idle(len(self.records), freed, self._settled_rss()))
        self._bar.write(str(self.idle[-1]))

    def _work(self, waiting: "SimpleQueue[Job]") -> None:
        client = Client(self.host.url)
        while not self._stop.is_set():
            try:
                job = waiting.get_nowait()
            except Empty:
                return
            for request in job:
                with self._lock:
                    self._sent += 1
                    free = self._sent % FREE_EVERY == 0
                if free:
                    client.free()
                self._record(client, request)

    def _record(self, client: Client, request: Request) -> None:
        seconds, digest = 0.0, ""
        try:
            result = self._send(client, request)
            seconds, digest = result.seconds, self._digest(client, request, result)
            outcome, expected = "file" if request.file else "image", not request.error
        except PromptError as error:
            seconds, expected = error.seconds, bool(request.error and re.search(request.error, str(error)))
            outcome = "expected error" if expected else str(error)
        except (TimeoutError, KeyError, OSError) as error:
            if isinstance(error, requests.ConnectionError):
                raise HostError(f"the server is gone at prompt {len(self.records) + 1} ({request.kind})") from error
            outcome, expected = f"{type(error).__name__}: {error}", False
        rss = self._process.memory_info().rss
        with self._lock:
            number = len(self.records) + 1
            record = Record(number, request.kind, seconds, rss, outcome, expected, request.probe, digest)
            self.records.append(record)
            self._bar.set_postfix_str(f"{rss / MEBIBYTE:.0f} MiB", refresh=False)
            self._bar.update()

    def _send(self, client: Client, request: Request) -> Result:
        prompt_id = client.queue(request.prompt)
        deadline, interrupt_at = time.monotonic() + MAX_SECONDS, None
        while time.monotonic() < deadline:
            if self._stop.wait(POLL_SECONDS):
                raise RunStoppedError
            if result := client.poll(prompt_id):
                return result
            if request.interrupt_after is None or prompt_id not in running(client.url):
                continue
            interrupt_at = interrupt_at or time.monotonic() + request.interrupt_after
            if time.monotonic() >= interrupt_at:
                client.interrupt(prompt_id)  # again and again: the host forgets one that comes before its first node
        client.interrupt(prompt_id)
        raise TimeoutError(f"not done after {MAX_SECONDS:.0f} s")

    def _digest(self, client: Client, request: Request, result: Result) -> str:
        if request.file:
            return hashlib.sha256((self.host.base / request.file).read_bytes()).hexdigest()
        images = client.images(result, request.shows)
        return hashlib.sha256(b"".join(str(image.size).encode() + image.tobytes() for image in images)).hexdigest()

    def _settled_rss(self) -> int:
        """Return the idle server's RSS once it has stopped changing."""
        before, deadline = 0, time.monotonic() + SETTLE_SECONDS
        while (rss := self._process.memory_info().rss) != before and time.monotonic() < deadline:
            before = rss
            time.sleep(2.0)
        return rss


def clear_history(url: str) -> None:
    """Make a server forget the prompts that have ended; it keeps the last 10,000, with their workflows."""
    requests.post(f"{url}/history", json={"clear": True}, timeout=60).raise_for_status()


def running(url: str) -> set[str]:
    """Ids of the prompts that a server is executing."""
    return {entry[1] for entry in requests.get(f"{url}/queue", timeout=60).json()["queue_running"]}


def main() -> int:
    """Run the command; returns its exit code."""
    arguments = parse_arguments()
    shutil.rmtree(OUTPUT, ignore_errors=True)
    base = prepare_base(OUTPUT / "host")
    install_nodes(base)
    folders = [base / "output", base / "temp", base / "models", WEIGHTS]
    start = time.monotonic()
    print("starting ComfyUI …", flush=True)
    try:
        with Host(base) as host, tqdm(total=arguments.prompts, desc="endurance", unit="prompt") as bar:
            client = Client(host.url)
            rounds = make_rounds(client, base, arguments)
            known, run = files_below(folders), EnduranceRun(host, bar)
            try:
                for jobs in rounds:
                    run.run_round(jobs, arguments.clients)
            finally:
                write_results(run)
            leftovers = check_leftovers(files_below(folders) - known)
    except KeyboardInterrupt:
        print(f"stopped; what was recorded is in {OUTPUT.relative_to(ROOT)}")
        return 130
    except HostError as error:
        print(f"FAILED: {error}; its log is {(base / 'host.log').relative_to(ROOT)}")
        return 1
    return report(run, leftovers, time.monotonic() - start)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="nox -s endurance --", description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=500, help="how many are sent (%(default)s; at least 10)")
    parser.add_argument("--clients", type=int, default=4, help="how many send them at once (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the prompts and their order (%(default)s)")
    parser.add_argument("--core-only", action="store_true", help="without our nodes: the host's own memory, to compare")
    arguments = parser.parse_args()
    if arguments.prompts < 10 or arguments.clients < 1:
        parser.error(f"--prompts is {arguments.prompts}, at least 10; --clients {arguments.clients}, at least 1")
    return arguments


def make_rounds(client: Client, base: Path, arguments: argparse.Namespace) -> list[list[Job]]:
    """Upload what the prompts need, and draw them."""
    if arguments.core_only:
        kinds = CorePrompts(client).kinds()
        return plan(kinds, [make for _, make in kinds], arguments.prompts, Random(arguments.seed))
    prompts = Prompts(client)
    kinds = prompts.kinds()
    probes = [make for _, make in kinds]
    wrong = WrongPrompts(client, base, prompts)
    return plan([*kinds, (12, wrong.wrong)], probes, arguments.prompts, Random(arguments.seed))


def write_results(run: EnduranceRun) -> None:
    """Write what was recorded so far."""
    write_csv(OUTPUT / "prompts.csv", run.records)
    if run.records:
        draw_chart(OUTPUT / "rss.png", run.records, run.idle)


def report(run: EnduranceRun, leftovers: Sequence[str], seconds: float) -> int:
    """Print the summary and what is wrong; return the exit code."""
    print(f"\n{seconds_table(run.records)}\n")
    for state in run.idle:
        print(state)
    probes = {record.probe for record in run.records if record.digest and record.probe}
    print(
        f"growth {growth(run.idle):+.2%} (trimmed); {len(run.records)} prompts in {seconds:.0f} s, of them "
        f"{sum(record.outcome == 'expected error' for record in run.records)} ended with the expected error; "
        f"{len(probes)} prompts were sent several times"
    )
    problems = [*check_outcomes(run.records), *check_probes(run.records), *check_growth(run.idle), *leftovers]
    for problem in problems:
        print(f"FAILED: {problem}")
    if not problems:
        print(f"all as expected; {OUTPUT.relative_to(ROOT)} has prompts.csv and rss.png")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
