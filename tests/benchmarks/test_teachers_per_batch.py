"""What `python -m benchmarks.teachers_per_batch` counts."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from operator import attrgetter

from benchmarks.teachers_per_batch import PEFT_LOOP, Method, measure, our_method


def test_what_a_run_takes_once_is_not_counted() -> None:
    once, each = 5.0, 0.25
    method = Method("counted", 1, lambda steps: (once + each * steps) / steps)
    assert measure(method, 4, threads=1) == each


def test_methods_go_to_other_processes() -> None:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        for method in (PEFT_LOOP, our_method(4)):
            assert pool.submit(attrgetter("name"), method).result() == method.name
