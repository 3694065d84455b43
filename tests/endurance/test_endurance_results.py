"""The checks of the endurance run on recorded data, without a server."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import torch
from PIL import Image
from safetensors.torch import save_file

from tests.endurance import endurance_results as results
from tests.endurance.endurance_prompts import Job, Request, plan

SENT = [results.Record(number, "portrait", 1.0, 10**9, "image", True, "0 portrait", "ab") for number in (1, 250, 500)]


def test_good_records_pass() -> None:
    idle = [results.Idle(100, 1100, 1000), results.Idle(500, 1200, 1019)]
    assert not results.check_outcomes(SENT)
    assert not results.check_probes(SENT)
    assert not results.check_growth(idle)


def test_another_end_is_found() -> None:
    broken = replace(SENT[0], outcome="KSampler: overflow", expected=False)
    assert results.check_outcomes([broken, *SENT[1:]]) == ["prompt 1 (portrait) ended with: KSampler: overflow"]


def test_another_picture_is_found() -> None:
    (problem,) = results.check_probes([*SENT[:2], replace(SENT[2], digest="cd")])
    assert "(0 portrait) gave 2 different results, sent as numbers 1, 250, 500" in problem


def test_growth_is_found() -> None:
    mebibyte = results.MEBIBYTE
    idle = [results.Idle(100, 0, 1000 * mebibyte), results.Idle(500, 0, 1021 * mebibyte)]
    assert results.check_growth(idle)[0].startswith("the idle server's RSS grew by 2.1%, from 1000 MiB after 100")
    assert not results.check_growth([replace(state, prompts=state.prompts // 5) for state in idle])


def test_leftover_files_are_found(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:-20])
    save_file({"x": torch.ones(3)}, tmp_path / "whole.safetensors")
    (tmp_path / "half.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:-1])
    (tmp_path / "loras").mkdir()
    (tmp_path / "loras" / ".x.safetensors.host.0123456789abcdef.partial").touch()
    problems = results.check_leftovers(results.files_below([tmp_path]))
    assert len(problems) == 3
    assert all("half" in problem or ".partial" in problem for problem in problems)


def test_chart_and_table_of_a_short_run(tmp_path: Path) -> None:
    results.write_csv(tmp_path / "prompts.csv", SENT)
    assert len((tmp_path / "prompts.csv").read_text(encoding="utf-8").splitlines()) == 1 + len(SENT)
    results.draw_chart(tmp_path / "rss.png", SENT, [results.Idle(1, 10**9, 10**9)])
    assert Image.open(tmp_path / "rss.png").width > 800
    assert results.seconds_table(SENT).splitlines()[1].split() == ["portrait", "3", "1.00", "s", "1.00", "s", "1.00"]


def test_plan_is_exact_and_repeats_every_probe() -> None:
    def one(rng: Random, number: int) -> Job:
        return (Request("one", {"seed": {"value": rng.random()}}),)

    def two(rng: Random, number: int) -> Job:
        return tuple(Request(kind, {"file": {"name": f"{number}"}}) for kind in ("save", "load"))

    rounds = plan([(1, one), (3, two)], [one, two], 57, Random(3))
    requests = [request for jobs in rounds for job in jobs for request in job]
    assert len(requests) == 57
    assert Counter(request.probe for request in requests if request.probe) == {"0 one": 3, "1 save": 3, "1 load": 3}
    assert len({str(request.prompt) for request in requests if request.probe == "0 one"}) == 1
    for index, jobs in enumerate(rounds):
        assert any(request.probe for job in jobs for request in job) == (index in (0, 2, 4))
