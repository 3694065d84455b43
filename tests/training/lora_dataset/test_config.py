"""The YAML files: what they may hold, and what is said when they hold something else."""

from pathlib import Path

import pytest

from training.lora_dataset.config import load_config

RECIPES = Path(__file__).parents[3] / "training" / "recipes"


def written(folder: Path, text: str) -> Path:
    path = folder / "some.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["miniature", "sdxl-24gb", "sdxl-4x24gb", "sdxl-80gb"])
def test_shipped_files_are_read(name: str) -> None:
    config = load_config(RECIPES / name / "1_dataset.yaml")
    assert config.dreambooth.rank == 4


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, "workspace: here\nbase: ../base\nfaces: {root: /faces}\n"))
    assert config.workspace == tmp_path / "here"
    assert config.base == tmp_path.parent / "base"
    assert config.faces.root == Path("/faces")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("workspace: w\nbase: b\nspeed: 3\n", "unknown setting 'speed'"),
        (
            "workspace: w\nbase: b\ndreambooth: {steps: many}\n",
            "dreambooth.steps: Input should be a valid integer, found 'many'",
        ),
        (
            "workspace: w\nbase: b\ncollect: {source: internet}\n",
            "collect.source: Input should be 'images', 'people' or 'datasets', found 'internet'",
        ),
        ("workspace: w\nbase: b\nfilter: 3\n", "filter: Input should be an object, found 3"),
        (
            "workspace: w\nbase: b\npack: {validation: 0.5, test: 0.6}\n",
            "pack: validation and test .* found 0.5 and 0.6, more than 1",
        ),
        (
            "workspace: w\nbase: b\npreprocess: {max_images: 2, held_out: 2}\n",
            "preprocess: max_images is 2, of which held_out keeps 2: none is left",
        ),
        (
            "workspace: w\nbase: b\ngenerate: {images: 4}\n",
            "generate.images is 4, of which filter.min_images needs 8: everybody would be dropped",
        ),
        (
            "workspace: w\nbase: b\ncollect: {max_images: 5}\ngenerate: {enabled: false}\n",
            "collect.max_images is 5, of which filter.min_images needs 8: everybody would be dropped",
        ),
        (
            "workspace: w\nbase: b\ngenerate: {size: 512}\nfilter: {min_face: 600}\n",
            "filter.min_face is 600, but the images that are generated have only 512 pixels .* every image would be",
        ),
        (
            "workspace: w\nbase: b\ngenerate: {style_strength: 100}\n",
            "generate.style_strength: Input should be less than 100, found 100",
        ),
        (
            "workspace: w\nbase: b\nfilter: {min_images: 2}\n",
            "filter.min_images is 2, and preprocess.held_out keeps 2 of them .* Set min_images to 3 or more",
        ),
        (
            "workspace: w\nbase: b\ndreambooth: {steps: 10}\n",
            "dreambooth: warmup is 20, longer than the 10 steps",
        ),
        ("base: b\n", "workspace"),
        ("- a list\n", "expected settings by name"),
        ("a: [1\n", "not valid YAML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_config(written(tmp_path, text))


def test_a_whole_number_is_a_number(tmp_path: Path) -> None:
    assert (
        load_config(written(tmp_path, "workspace: w\nbase: b\nverify: {guidance_scale: 3}\n")).verify.guidance_scale
        == 3.0
    )


def test_a_source_on_disk_is_relative_to_the_file_and_a_name_stays_one(tmp_path: Path) -> None:
    text = "workspace: w\nbase: b\ncollect: {source: datasets, path: faces}\n"
    assert load_config(written(tmp_path, text)).collect.path == "faces"
    (tmp_path / "faces").mkdir()
    assert load_config(written(tmp_path, text)).collect.path == str(tmp_path / "faces")


@pytest.mark.parametrize(
    ("workspace", "source"),
    [("photos", "photos"), ("photos/work", "photos"), ("work", "work/collect"), ("work", "work/generate/anna")],
)
def test_stages_do_not_write_among_the_collected_images(tmp_path: Path, workspace: str, source: str) -> None:
    """What they write would be one person more, of everybody's images; or the originals would be replaced."""
    text = f"workspace: {workspace}\nbase: b\ncollect: {{path: {source}}}\n"
    with pytest.raises(ValueError, match=r"some.yaml: the stages write into workspace, .* outside that folder"):
        load_config(written(tmp_path, text))


def test_images_may_lie_beside_the_stages(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, "workspace: work\nbase: b\ncollect: {path: work/photos}\n"))
    assert config.collect.path == str(config.workspace / "photos")
