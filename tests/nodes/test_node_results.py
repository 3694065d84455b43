"""Nodes with odd inputs and settings of the host: gray images, another device between nodes, several candidates."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from miniature.comfyui.host import find_host

LEFT_OUT = "reference 2: no face, left out"


def output_of(name: str, base: Path) -> dict[str, Any]:
    """Run one of the scripts beside this file and return what it prints."""
    command = [sys.executable, str(Path(__file__).with_name(name)), str(find_host()), str(base)]
    done = subprocess.run(command, cwd=base, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return output_of("node_results.py", tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return output_of("node_errors.py", tmp_path_factory.mktemp("errors"))


def test_gray_images_are_shown_in_a_grid(results: dict[str, Any]) -> None:
    assert results["gray grid"] == [1, 8 + 20, 12, 3]


def test_a_big_grid_has_smaller_images(results: dict[str, Any]) -> None:
    assert results["reduced grid"] == [1, 2 * (10 + 20), 2 * 10, 3]


def test_every_deleted_file_is_noticed_whether_the_prefix_is_linked_or_not(results: dict[str, Any]) -> None:
    """Of two files with one prefix, each one's deletion alone makes ComfyUI run the node again."""
    for step, changes in results["saved files"].items():
        assert changes == ["deleted" in step] * 2, step


def test_a_text_is_shown_sign_by_sign_and_line_by_line_on_the_page_that_queued_it(results: dict[str, Any]) -> None:
    """In a page that reads it as HTML, and in one that reads it as Markdown."""
    assert results["shown"] == ["&#95;one&#95;  \n&lt;b&gt;", "7", "page 1"]


def test_a_loaded_identity_is_where_other_latents_are(results: dict[str, Any]) -> None:
    """Blend Latents could not mix it with a sampled latent otherwise."""
    assert results["identity"] == "meta"


def test_the_best_candidate_is_the_one_whose_images_are_most_similar(results: dict[str, Any]) -> None:
    best = results["best"]
    assert (best["best"], best["images"]) == (1, 2)
    assert best["lines"] == ["candidate 2: 0.970", "candidate 3: 0.707", "candidate 1: 0.000", LEFT_OUT]
    assert best["mean"] == pytest.approx(0.8 / 0.68**0.5, rel=1e-3)


def test_references_are_encoded_once_for_all_candidates(results: dict[str, Any]) -> None:
    assert results["best"]["references"] == 1


def test_an_image_without_a_face_ranks_below_one_with_another_face(results: dict[str, Any]) -> None:
    """It counts as 0, as in Face Similarity, but in the ranking and its text as the lowest cosine."""
    best = results["no face"]
    assert (best["best"], best["mean"]) == (3, 0.5)
    assert best["lines"] == [
        "candidate 4: 0.450, no face in 1 of 2 images",
        "candidate 2: -0.101",
        "candidate 3: -0.101, no face in 1 of 2 images",
        "candidate 1: -0.101, no face",
        LEFT_OUT,
    ]


def test_candidates_without_any_face_are_not_ranked(results: dict[str, Any]) -> None:
    assert results["no face at all"]["error"].startswith("no image of any candidate shows a face")


def test_latents_of_two_versions_of_a_checkpoint_are_not_blended(results: dict[str, Any]) -> None:
    """Nor if the first of them is of a file that does not say which version made it."""
    blended = results["blended"]
    assert (blended["aa"], blended["a "], blended[" a"], blended["  "]) == ("a", "a", "a", "")
    for versions in ("ab", " ab"):
        assert blended[versions].startswith("the latents were made with two versions of x.safetensors")


def test_amount_is_between_first_and_second_only(results: dict[str, Any]) -> None:
    """With an input left out, as by a muted node, the others are averaged as the inputs say."""
    assert results["two people"] == {"second": [0.75, 0.75], "third": [0.5, None], "fourth": [0.5, None]}


def test_every_file_of_an_image_encoder_is_noticed(results: dict[str, Any]) -> None:
    assert results["image encoder"] == [True, True, True]


@pytest.mark.parametrize("kind", ["LoRAs", "identities"])
def test_no_file_of_another_process_is_replaced(results: dict[str, Any], kind: str) -> None:
    """Two processes choose the same number at one moment; the slower one takes the next."""
    names = [f"race_0000{number} {whose}" for number, whose in enumerate(("other", "own", "other", "own"), start=1)]
    assert results[f"race of {kind}"] == names


def test_a_lora_names_the_checkpoint_that_decoded_it(results: dict[str, Any]) -> None:
    """The one that made it first is in the record of what was encoded."""
    assert results["encoded"] == {"encoded": {"checkpoint": "old", "seed": 3}, "checkpoint": "new"}


def test_a_point_tells_that_commas_are_between_numbers(results: dict[str, Any]) -> None:
    assert results["strengths"] == [[0, 0.5, 1], [0, -1, 2]]


def test_a_model_pack_in_two_folders_is_that_of_the_first(results: dict[str, Any]) -> None:
    assert results["first pack"]


def test_it_is_said_that_there_is_no_image_encoder(results: dict[str, Any]) -> None:
    assert results["no clip vision"].startswith("there is no CLIP vision model in models/clip_vision: put")


def test_an_image_encoder_without_a_folder_is_one_choice(results: dict[str, Any]) -> None:
    assert results["clip vision choices"] == ["model.safetensors"]


def test_tensors_of_every_dtype_have_a_hash(results: dict[str, Any]) -> None:
    whole, half = results["hashes"]
    assert len(whole) == len(half) == 16
    assert whole != half


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("no clip", "ValueError: `clip` is empty, since the file of Load Checkpoint has none: load it with Load CLIP"),
        ("no vae", "ValueError: `vae` is empty, since the file of Load Checkpoint has none: load it with Load VAE"),
        ("small images", "ValueError: `images` are of 63 × 64 pixels: training needs at least 64 a side"),
        ("two image encoders", "ValueError: `clip_vision_output` has features of the widths 3, 4, which several image"),
        ("no image", "ValueError: Images are a tensor (images, height, width, 3), found NoneType"),
        ("number as label", "no error"),
        ("no identity", "FileNotFoundError: there is no identity in models/difflora_identities: save one with Save Id"),
        ("no LoRA", "FileNotFoundError: there is no LoRA in models/loras: put a safetensors file there, then press R"),
        ("empty LoRA", "ValueError: the LoRA has no modules: nothing is saved"),
    ],
)
def test_what_a_user_may_connect_by_mistake(errors: dict[str, Any], case: str, message: str) -> None:
    assert errors[case].startswith(message)


@pytest.mark.parametrize("case", ["no permission", "read-only", "folder is a file"])
def test_a_folder_that_cannot_be_written_to_is_named(errors: dict[str, Any], case: str) -> None:
    """In place of the partial file, whose name tells nobody anything."""
    assert "so nothing is saved; let ComfyUI write into the folder, or choose another" in errors[case]
    assert errors[case].endswith("models/loras/person'" if case != "folder is a file" else "models/loras/file/person'")


def test_links_to_files_that_are_gone_hide_no_node(errors: dict[str, Any]) -> None:
    """ComfyUI leaves out a node that fails to list its choices."""
    assert errors["choices"] == {"image encoders": ["here"], "checkpoints": {}, "packs": []}
