"""What `python -m benchmarks.teachers_per_batch` counts."""

import pickle

from benchmarks.teachers_per_batch import PEFT_LOOP, Method, measure, our_method


def test_what_a_run_takes_once_is_not_counted() -> None:
    once, each = 5.0, 0.25
    method = Method("counted", 1, lambda steps: (once + each * steps) / steps)
    assert measure(method, 4, threads=1) == each


def test_methods_go_to_other_processes() -> None:
    for method in (PEFT_LOOP, our_method(4)):
        assert pickle.loads(pickle.dumps(method)).name == method.name  # noqa: S301 # its own bytes
