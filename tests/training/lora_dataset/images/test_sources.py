"""Sources of images: folders and data sets, through stage collect; what cannot be a source is refused."""

import json
import os
import sys
from pathlib import Path

import datasets
import pytest

from tests.training.lora_dataset.collect_inputs import drawn_image, run, save, settings
from training.lora_dataset.images.sources import entries
from training.lora_dataset.stages.collect import COLLECT


def test_max_people_takes_the_first(tmp_path):
    for name in ("anne", "bert", "cleo"):
        save(tmp_path / "in" / name / "a.png", drawn_image(6001, 0))
    assert COLLECT.items(settings(tmp_path, tmp_path / "in", max_people=2)) == ["anne", "bert"]


@pytest.mark.parametrize("source", ["images", "people"])
def test_an_empty_folder_is_an_error(tmp_path, source):
    (tmp_path / "in" / "inside").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"without any image|holds no images"):
        COLLECT.items(settings(tmp_path, tmp_path / "in", source=source))
    with pytest.raises(FileNotFoundError, match="elsewhere does not exist, expected a folder"):
        COLLECT.items(settings(tmp_path, tmp_path / "elsewhere", source=source))


def test_images_in_place_of_folders_are_explained(tmp_path):
    save(tmp_path / "in" / "a.png", drawn_image(6001, 0))
    with pytest.raises(ValueError, match="it holds 1 images: if each is a person, set collect"):
        COLLECT.items(settings(tmp_path, tmp_path / "in"))


def test_links_and_loose_images_are_not_passed_over_in_silence(tmp_path):
    save(tmp_path / "in" / "anne" / "a.png", drawn_image(6001, 0))
    (tmp_path / "more").mkdir()
    (tmp_path / "in" / "anne" / "more").symlink_to(tmp_path / "more")
    (entry,) = entries(settings(tmp_path, tmp_path / "in").collect)
    assert entry.passed_over == ("more",)
    save(tmp_path / "in" / "of_nobody.png", drawn_image(6001, 1))
    (entry,) = entries(settings(tmp_path, tmp_path / "in").collect)
    assert entry.passed_over == ("more", "of_nobody.png")
    (tmp_path / "in" / "bert").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"bert is a link to .*elsewhere, which is not there: correct or delete it"):
        COLLECT.items(settings(tmp_path, tmp_path / "in"))


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS takes both for one name")
def test_one_name_in_two_forms_of_unicode_is_no_two_people(tmp_path):
    for name in ("Zo\u00eb", "Zoe\u0308"):
        save(tmp_path / "in" / name / "a.png", drawn_image(6001, 0))
    with pytest.raises(ValueError, match=r"collect.path: Zo.* and Zo.* are one name in two forms of Unicode"):
        COLLECT.items(settings(tmp_path, tmp_path / "in"))


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """Rows of two people, one row without a label, one without a image, as `save_to_disk` writes them."""
    folder = tmp_path_factory.mktemp("table")
    images = [drawn_image(6021, 0), drawn_image(6022, 0), drawn_image(6021, 1), drawn_image(6023, 0), None]
    rows = datasets.Dataset.from_dict(
        {"photo": images, "who": [0, 1, 0, None, 1]},
        features=datasets.Features({"photo": datasets.Image(), "who": datasets.ClassLabel(names=["Eva", "Ida M."])}),
    )
    rows.save_to_disk(str(folder / "rows"))
    return folder / "rows"


def test_a_column_or_a_data_set_that_is_not_there(table, tmp_path):
    with pytest.raises(ValueError, match="no column 'face', only photo, who"):
        COLLECT.items(settings(tmp_path, table, source="datasets", image_column="face"))
    with pytest.raises(ValueError, match="cannot open nobody/nothing without the network"):
        COLLECT.items(settings(tmp_path, "nobody/nothing", source="datasets"))


def test_without_the_library_the_error_says_what_to_install(table, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match="python -m pip install datasets"):
        COLLECT.items(settings(tmp_path, table, source="datasets"))


def test_rows_grouped_by_a_label(table, tmp_path):
    records = run(settings(tmp_path, table, source="datasets", image_column="photo", person_column="who"))
    by_origin = {record.facts["origin"]: record for record in records.values()}
    assert set(by_origin) == {"Eva", "Ida M.", "row 3"}
    assert by_origin["Eva"].facts["sources"] == ["row 0", "row 2"]
    assert by_origin["Ida M."].facts["dropped"] == [
        {"source": "row 4", "reason": "row 4 has no image in column 'photo'"}
    ]


def test_each_row_a_person(table, tmp_path):
    records = run(settings(tmp_path, table, source="datasets", image_column="photo", max_people=3))
    assert [(item, record.status) for item, record in records.items()] == [
        ("row-00000000", "done"), ("row-00000001", "done"), ("row-00000002", "dropped"),
    ]  # fmt: skip
    assert records["row-00000002"].reason.startswith("same person as row-00000000")


def saved_rows(folder: Path, images: list, feature: object) -> Path:
    datasets.Dataset.from_dict({"image": images}, features=datasets.Features({"image": feature})).save_to_disk(folder)
    return folder


def test_a_row_with_a_list_of_images_is_one_person(tmp_path):
    images = [[drawn_image(6021, 0), drawn_image(6021, 1)], [], None, [drawn_image(6022, 0), None]]
    rows = saved_rows(tmp_path / "rows", images, datasets.List(datasets.Image()))
    records = run(settings(tmp_path / "out", rows, source="datasets"))
    assert records["row-00000000"].facts["sources"] == ["row 0, image 1", "row 0, image 2"]
    assert records["row-00000003"].facts["sources"] == ["row 3, image 1"]
    assert records["row-00000003"].facts["dropped"][0]["reason"] == "row 3, image 2 has no image in column 'image'"
    assert [records[f"row-{row:08d}"].status for row in range(4)] == ["done", "dropped", "dropped", "done"]


@pytest.mark.parametrize(
    ("value", "feature", "found"),
    [
        ("iVBORw0KGgo" * 1000, datasets.Value("string"), "a text of 11,000 characters that begins with 'iVBORw0KGgo"),
        ([[[1, 2], [3, 4]]] * 3, datasets.Array3D((3, 2, 2), "uint8"), "a list of 3"),
        (7, datasets.Value("int64"), "a value of type int"),
    ],
)
def test_a_column_of_something_else_is_named(tmp_path, value, feature, found):
    rows = saved_rows(tmp_path / "rows", [value], feature)
    with pytest.raises(ValueError, match=f"row 0 has {found}.* in column 'image', expected an image of `datasets`"):
        run(settings(tmp_path / "out", rows, source="datasets"))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            "zip://a.png::/data/faces.zip",
            "names zip://a.png.*, in an archive or on another machine.*unpack the archive",
        ),
        ("https://example.org/a.png", "names https://example.org/a.png, in an archive or on another machine"),
        ("a.png", r"\(a.png\) is not there or not a file"),
        (b"PK\x03\x04 an archive", "is no image, or of a kind that Pillow cannot read"),
    ],
    ids=["in a zip", "address", "no file", "zip"],
)
def test_an_image_that_is_elsewhere_is_named_with_its_column(tmp_path, value, message):
    rows = saved_rows(tmp_path / "rows", [value], datasets.Value("string" if isinstance(value, str) else "binary"))
    with pytest.raises(ValueError, match=f"nobody was collected.*row 0, column 'image' {message}"):
        run(settings(tmp_path / "out", rows, source="datasets"))


def test_a_folder_of_files_is_a_data_set_too(tmp_path):
    save(tmp_path / "in" / "a.png", drawn_image(6021, 0))
    (tmp_path / "in" / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "who": "Eva"}))
    config = settings(tmp_path / "out", tmp_path / "in", source="datasets", person_column="who")
    assert [record.facts["origin"] for record in run(config).values()] == ["Eva"]


def test_each_image_a_person(tmp_path):
    save(tmp_path / "in" / "one" / "same name.png", drawn_image(6011, 0))
    save(tmp_path / "in" / "two" / "same name.png", drawn_image(6012, 0))
    save(tmp_path / "in" / "same name.jpg", drawn_image(6013, 0))
    save(tmp_path / "in" / ".hidden.png", drawn_image(6014, 0))
    records = run(settings(tmp_path / "out", tmp_path / "in", source="images"))
    assert len(records) == 3
    assert all(item.startswith("same-name-") and record.status == "done" for item, record in records.items())


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no file names that are not Unicode")
def test_a_name_that_is_not_unicode(tmp_path):
    folder = tmp_path / "in" / os.fsdecode(b"caf\xe9")
    save(folder / "a.png", drawn_image(6011, 0))
    (folder / os.fsdecode(b"men\xfa.doc")).write_text("not an image")
    (record,) = run(settings(tmp_path / "out", tmp_path / "in")).values()
    assert record.item.startswith("caf-")
    assert record.status == "done", record.reason
    assert record.facts["origin"] == "caf\\udce9"
    assert record.facts["passed_over"] == ["men\\udcfa.doc"]


def test_an_image_whose_caption_cannot_be_read_is_named(tmp_path):
    for name, number in (("a.png", 0), ("b.png", 1), ("c.png", 2)):
        save(tmp_path / "in" / "ann" / name, drawn_image(6001, number))
    (tmp_path / "in" / "ann" / "a.txt").write_bytes("with Zoë".encode("cp1252"))
    (tmp_path / "in" / "ann" / "b.png.txt").write_bytes("with Zoë".encode("utf-16"))
    (record,) = run(settings(tmp_path / "out", tmp_path / "in")).values()
    assert [Path(source).name for source in record.facts["sources"]] == ["b.png", "c.png"]
    (dropped,) = record.facts["dropped"]
    assert "a.txt is not in UTF-8 (byte 7): save it as UTF-8" in dropped["reason"]
    captions = [path.read_text(encoding="utf-8") for path in sorted((tmp_path / "out").rglob("000.txt"))]
    assert captions == ["with Zoë"]


def test_links_out_of_the_folder_are_refused(tmp_path):
    for name, number in (("a.png", 0), ("b.png", 1)):
        save(tmp_path / "in" / "ann" / name, drawn_image(6001, number))
    save(tmp_path / "elsewhere" / "c.png", drawn_image(6001, 2))
    (tmp_path / "elsewhere" / "secret.txt").write_text("secret")
    (tmp_path / "in" / "ann" / "a.txt").symlink_to(tmp_path / "elsewhere" / "secret.txt")
    (tmp_path / "in" / "ann" / "c.png").symlink_to(tmp_path / "elsewhere" / "c.png")
    (tmp_path / "in" / "bob").mkdir()
    (tmp_path / "in" / "bob" / "own.png").symlink_to(tmp_path / "in" / "ann" / "b.png")  # within the folder
    (tmp_path / "link").symlink_to(tmp_path / "in")  # the folder itself
    ann, bob = run(settings(tmp_path / "out", tmp_path / "link", action="drop")).values()
    assert [Path(source).name for source in ann.facts["sources"]] == ["b.png"]
    reasons = [entry["reason"] for entry in ann.facts["dropped"]]
    assert len(reasons) == 2
    assert all("is reached by a link out of" in reason for reason in reasons)
    assert bob.facts["own"] == 1
    assert not any("secret" in path.read_text() for path in (tmp_path / "out").rglob("*.txt"))


@pytest.mark.parametrize("source", ["people", "images"])
def test_what_lies_beside_images_is_counted_and_named(tmp_path, source, capsys):
    save(tmp_path / "in" / "ann" / "a.png", drawn_image(6001, 0))
    for name in ("a.txt", "a.png.txt", "b.heic", "c.jxl", "notes.txt", ".hidden.heic"):
        (tmp_path / "in" / "ann" / name).write_text("x")
    (record,) = run(settings(tmp_path / "out", tmp_path / "in", source=source)).values()
    prefix = "ann/" if source == "images" else ""
    assert record.facts["passed_over"] == [f"{prefix}{name}" for name in ("b.heic", "c.jxl", "notes.txt")]
    assert f"3 files passed over: {prefix}b.heic, {prefix}c.jxl, {prefix}notes.txt" in capsys.readouterr().out


@pytest.mark.parametrize("source", ["people", "images"])
def test_a_folder_of_another_kind_of_images_is_explained(tmp_path, source):
    (tmp_path / "in" / "ann").mkdir(parents=True)
    (tmp_path / "in" / "ann" / "b.HEIC").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"1 file passed over: ann/b\.HEIC; images are jpg"):
        COLLECT.items(settings(tmp_path / "out", tmp_path / "in", source=source))
