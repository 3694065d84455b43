"""Coverage-guided fuzzing of the readers of files from elsewhere, by atheris (libFuzzer).

    python -m nox -s fuzz -- --seconds 60 --reader lora
    python -m tests.fuzz.fuzz_readers --reader lora --replay output/fuzz/lora/crash-0123

A finding is any file at which a reader does something else than reading it or refusing it with a ValueError that names
it, takes longer than 10 s, or takes more than 1 GB of memory. It is saved under output/fuzz/, and the exit code is 1.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

OUTPUT = Path(__file__).parents[2] / "output" / "fuzz"
NAMES = ("lora", "checkpoint", "shard", "settings")
SECONDS = 300
"""For each reader."""
TIMEOUT = 10
"""Seconds after which a file is a finding."""
MEMORY_MB = 1024
"""Memory above that of the start with which a file is a finding."""
MAX_BYTES = 65_536
"""Of a file; every seed has less."""
INSTRUMENTED = ["difflora_core", "training", "ruamel"]
"""Packages whose branches guide the search. pydantic and safetensors are compiled, torch is not what is tested."""
NOT_INSTRUMENTED = ["ruamel.yaml.reader", "ruamel.yaml.scanner", "ruamel.yaml.error"]
"""They run for each character, and would make the settings' reader four times as slow."""


def main() -> int:
    """Fuzz readers one after another, each in a process of its own; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.fuzz_readers", description=__doc__.partition("\n")[0])
    parser.add_argument("--reader", choices=NAMES, action="append", help="one reader; may be given several times")
    parser.add_argument("--seconds", type=int, default=SECONDS, help=f"for each reader (default {SECONDS})")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="read this file once by the one --reader")
    parser.add_argument("--corpus", type=Path, help=argparse.SUPPRESS)  # a process of its own is started with it
    arguments = parser.parse_args()
    readers = arguments.reader or list(NAMES)
    if arguments.replay:
        if len(readers) != 1:
            parser.error("--replay needs one --reader")
        return replay(readers[0], arguments.replay)
    if arguments.corpus:
        fuzz(readers[0], arguments.seconds, arguments.corpus)
    failed = [name for name in readers if not run(name, arguments.seconds)]
    print(f"findings: {', '.join(failed) or 'none'}")
    return int(bool(failed))


def run(name: str, seconds: int) -> bool:
    """Fuzz one reader; return whether it had no finding, and print how to replay the one that it had."""
    output = OUTPUT / name
    output.mkdir(parents=True, exist_ok=True)
    before = set(output.iterdir())
    print(f"{name}: {seconds} s", flush=True)
    with tempfile.TemporaryDirectory() as corpus:
        own = [sys.executable, "-m", "tests.fuzz.fuzz_readers", "--reader", name]
        code = subprocess.run([*own, "--seconds", str(seconds), "--corpus", corpus], check=False).returncode
    if code == 0:
        return True
    for path in sorted(set(output.iterdir()) - before):
        print(f"{name}: saved {path}; to replay it:\n  {' '.join(own)} --replay {path}", flush=True)
    return False


def fuzz(name: str, seconds: int, corpus: Path) -> None:
    """Fuzz one reader in this process, which ends with it."""
    import atheris  # in the dependency group `fuzz` alone; the tests do without

    with atheris.instrument_imports(include=INSTRUMENTED, exclude=NOT_INSTRUMENTED):
        from tests.fuzz.reader_targets import READERS, seeds
    import torch

    from tests.fuzz.file_mutations import mutate_safetensors, mutate_settings

    torch.set_num_threads(1)
    reader = READERS[name]
    folder = corpus / "read"
    folder.mkdir()
    (corpus / "seeds").mkdir()
    for path in seeds(reader, corpus / "seeds"):
        reader.check(path.read_bytes(), folder)  # also what is loaded on first use
    change = mutate_settings if name == "settings" else mutate_safetensors

    def mutate(content: bytes, most: int, seed: int) -> bytes:
        return change(content, most, seed, atheris.Mutate)

    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024 + MEMORY_MB
    options = {
        "max_total_time": seconds,
        "timeout": TIMEOUT,
        "rss_limit_mb": memory,
        "max_len": MAX_BYTES,
        "len_control": 0,
        "print_final_stats": 1,
        "artifact_prefix": f"{OUTPUT / name}/",
    }
    command = [sys.argv[0], *(f"-{option}={value}" for option, value in options.items()), str(corpus / "seeds")]
    atheris.Setup(command, lambda content: reader.check(content, folder) and None, custom_mutator=mutate)
    atheris.Fuzz()


def replay(name: str, path: Path) -> int:
    """Read one file once: print what became of it, and let an error pass."""
    from tests.fuzz.reader_targets import READERS

    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        read = READERS[name].check(path.read_bytes(), Path(folder))
    seconds, peak = time.monotonic() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"{path}: {'read' if read else 'refused'} in {seconds:.1f} s, peak memory of the process {peak} MB")
    return int(seconds > TIMEOUT)


if __name__ == "__main__":
    sys.exit(main())
