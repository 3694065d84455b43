"""`python -m benchmarks.lae_networks` on random LoRAs of the miniature's layout: ratios, forms, resuming, table."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.lae_networks.__main__ import Data, measure, origin_of
from benchmarks.lae_networks.networks import FORMS, NETWORKS, SHAPES, config_of, in_form, start_like
from benchmarks.lae_networks.table import Entry, show
from miniature.base_model.config import lora_layout
from training.autoencoder.train import new_lae
from training.dreambooth.train import shared_start
from training.store.loras import LoRAsInMemory

LAYOUT = lora_layout()
ARGUMENTS = argparse.Namespace(
    ratios=[1000],
    networks=["conv shared", "linear"],
    form="raw",
    people=0,
    weights=[0.5],
    seeds=[0],
    steps=2,
    end_to_end=0,
)


@pytest.fixture(scope="module")
def loras() -> Tensor:
    """Forty LoRAs around the teachers' start, as many as a batch of the training needs."""
    generator = torch.Generator().manual_seed(0)
    return shared_start(LAYOUT) + 0.02 * torch.randn(40, LAYOUT.numel, generator=generator)


@pytest.fixture
def data(loras: Tensor) -> Data:
    return Data(loras, LoRAsInMemory(loras[:4] + 0.01), lambda lae: {"kept": 0.5}, None, "teachers")


@pytest.mark.parametrize("ratio", SHAPES)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_has_the_ratio(network: str, ratio: int) -> None:
    config = config_of(network, ratio)
    assert config.kind == network.split()[0]
    assert config.local == (not network.endswith(" shared"))
    assert LAYOUT.numel / (config.tokens * config.width) == pytest.approx(ratio, rel=0.04)


@pytest.mark.parametrize("form", FORMS)
def test_a_form_keeps_the_weight_changes(form: str, loras: Tensor) -> None:
    changed = in_form(form, loras[:2])
    assert torch.equal(changed, loras[:2]) == (form == "raw")
    for name, (down, up) in LAYOUT.unflatten(changed).items():
        expected_down, expected_up = LAYOUT.unflatten(loras[:2])[name]
        assert torch.allclose(up @ down, expected_up @ expected_down, atol=1e-5)


def test_a_start_differs_from_the_fitted_network_between_the_stages_alone(loras: Tensor) -> None:
    fitted = new_lae(LAYOUT, config_of("conv", 1000), 0)
    fitted.fit(loras)
    started = start_like(fitted, 1).state_dict()
    assert {name for name, own in fitted.state_dict().items() if not torch.equal(own, started[name])} == {
        f"network.{side}_blocks.{block}.widen.{kind}"
        for side in ("encoder", "decoder")
        for block in range(2)
        for kind in ("weight", "bias")
    }


def test_a_run_continues_where_the_last_one_ended(data: Data) -> None:
    whole = list(measure(ARGUMENTS, data, []))
    assert [entry["case"].get("weight", "as fitted") for entry in whole] == ["as fitted", 0.5, "as fitted"]
    assert all({"values", "parameters", "r2", "delta_w_cosine", "kept"} <= entry.keys() for entry in whole)
    read_again = json.loads(json.dumps(whole))
    assert list(measure(ARGUMENTS, data, read_again)) == []
    (again,) = measure(ARGUMENTS, data, [entry for entry in read_again if entry["case"].get("weight") != 0.5])
    assert (again["case"], again["r2"]) == (whole[1]["case"], whole[1]["r2"])


def test_results_of_other_teachers_or_weights_are_not_used(data: Data, tmp_path: Path) -> None:
    arguments = argparse.Namespace(**{**vars(ARGUMENTS), "seeds": []})
    (first, _), known = measure(arguments, data, []), list(measure(arguments, data, []))
    assert len(list(measure(arguments, replace(data, origin="others"), known))) == 2
    assert first["case"]["origin"] == "teachers"
    loras, weights = torch.zeros(2, 3), tmp_path / "base.safetensors"
    weights.write_bytes(b"one")
    before = [origin_of([loras, loras], folder) for folder in (None, tmp_path)]
    assert before == [origin_of([loras, loras], folder) for folder in (None, tmp_path)]
    weights.write_bytes(b"two")
    after = [origin_of([loras, loras], folder) for folder in (None, tmp_path)]
    assert (after[0], after[1] == before[1]) == (before[0], False)
    assert origin_of([loras, loras + 1], None) != before[0]


def test_the_table_has_a_line_for_all_seeds_of_a_case(capsys: pytest.CaptureFixture) -> None:
    case = {"ratio": 300, "network": "conv", "form": "raw", "people": 0, "steps": 60, "end_to_end": 5, "weight": 0.5}
    sizes: Entry = {"values": 352, "parameters": 2_500_000}
    entries: list[Entry] = [{"case": {**case, "seed": seed}, **sizes, "r2": r2} for seed, r2 in ((0, 0.5), (1, 0.7))]
    flat = {"ratio": 1000, "network": "flat", "form": "raw", "people": 0}
    entries.append({"case": flat, **sizes})  # as fitted there is nothing to measure
    entries.append({"case": {**case, "ratio": 1000}, **sizes, "r2": 0.25, "delta_w_cosine": 0.125})
    show(entries)
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["ratio", "network", "form", "trained"]
    assert [" ".join(line.split()) for line in lines] == [
        "1000 conv raw wp 0.5 × 1 + 5 352 2.50 0.250 0.125",
        "300 conv raw wp 0.5 × 2 + 5 352 2.50 0.600 (0.500–0.700)",
    ]
