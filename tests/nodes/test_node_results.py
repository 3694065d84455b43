"""Nodes with odd inputs and settings of the host: gray images, another device between nodes, several candidates."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from miniature.comfyui.host import find_host


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    script, base = Path(__file__).with_name("node_results.py"), tmp_path_factory.mktemp("base")
    command = [sys.executable, str(script), str(find_host()), str(base)]
    done = subprocess.run(command, cwd=base, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_gray_images_are_shown_in_a_grid(results: dict[str, Any]) -> None:
    assert results["gray grid"] == [1, 8 + 20, 12, 3]


def test_a_loaded_identity_is_where_other_latents_are(results: dict[str, Any]) -> None:
    """Blend Latents could not mix it with a sampled latent otherwise."""
    assert results["identity"] == "meta"


def test_the_best_candidate_is_the_one_whose_images_are_most_similar(results: dict[str, Any]) -> None:
    best = results["best"]
    assert (best["best"], best["images"], best["order"]) == (1, 2, [2, 3, 1])
    assert best["mean"] == pytest.approx(0.8 / 0.68**0.5, rel=1e-3)


def test_references_are_encoded_once_for_all_candidates(results: dict[str, Any]) -> None:
    assert results["best"]["references"].count(255.0) == 1


def test_latents_of_two_versions_of_a_checkpoint_are_not_blended(results: dict[str, Any]) -> None:
    """Nor if the first of them is of a file that does not say which version made it."""
    blended = results["blended"]
    assert (blended["aa"], blended["a "], blended[" a"], blended["  "]) == ("a", "a", "a", "")
    for versions in ("ab", " ab"):
        assert blended[versions].startswith("the latents were made with two versions of x.safetensors")


def test_a_lora_names_the_checkpoint_that_decoded_it(results: dict[str, Any]) -> None:
    """The one that made it first is in the record of what was encoded."""
    assert results["encoded"] == {"encoded": {"checkpoint": "old", "seed": 3}, "checkpoint": "new"}


def test_a_model_pack_in_two_folders_is_that_of_the_first(results: dict[str, Any]) -> None:
    assert results["first pack"]


def test_it_is_said_that_there_is_no_image_encoder(results: dict[str, Any]) -> None:
    assert results["no clip vision"].startswith("there is no CLIP vision model in models/clip_vision: put")


def test_an_image_encoder_without_a_folder_is_one_choice(results: dict[str, Any]) -> None:
    assert results["clip vision choices"] == ["model.safetensors"]


def test_tensors_of_every_dtype_have_a_fingerprint(results: dict[str, Any]) -> None:
    whole, half = results["fingerprints"]
    assert len(whole) == len(half) == 16
    assert whole != half
