"""The cache of embeddings: any number of images per person, matched by name, refused where it doesn't fit."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from difflora_core.config import EncoderNames
from difflora_core.files import write_tensors
from training.people.embeddings import EmbeddingCache, ImageEmbeddings, write_embeddings

ENCODERS = EncoderNames("faces", "images")


def embeddings(count: int, seed: int = 0, image: int = 3) -> ImageEmbeddings:
    generator = torch.Generator().manual_seed(seed)
    return ImageEmbeddings(torch.randn(count, 4, generator=generator), torch.randn(count, image, generator=generator))


@pytest.fixture
def folder(tmp_path):
    """Ann with two images, Bob with five, in files of their own; Cleo with one and 7 with three in a common one."""
    write_embeddings(tmp_path / "ann.safetensors", {"ann": embeddings(2, 1)}, ENCODERS)
    write_embeddings(tmp_path / "bob.safetensors", {"bob": embeddings(5, 2)}, ENCODERS)
    write_embeddings(tmp_path / "more.safetensors", {"cleo": embeddings(1, 3), "7": embeddings(3, 4)}, ENCODERS)
    return tmp_path


def test_images_are_left_out_by_their_files():
    """Of somebody who has no others, or whose files are not known, all stay."""
    ann, bob = (replace(embeddings(3, seed), files=("0.png", "1.png", "2.png")) for seed in (1, 2))
    cache = EmbeddingCache("here", {"ann": ann, "bob": bob, "cleo": embeddings(2)}, ENCODERS)
    left = cache.without({"ann": {"1.png"}, "bob": set(bob.files), "cleo": {"0.png"}, "dan": {"0.png"}}).people
    assert left["ann"].files == ("0.png", "2.png")
    assert torch.equal(left["ann"].face, ann.face[[0, 2]])
    assert torch.equal(left["ann"].image, ann.image[[0, 2]])
    assert left["bob"] is bob
    assert left["cleo"] is cache.people["cleo"]


def test_people_are_matched_by_name_and_padded_to_the_most_embeddings(folder):
    conditions, rows = EmbeddingCache.open(folder).of([7, "bob", "ann"])
    assert rows == [0, 1, 2]
    assert conditions.face.shape == (3, 5, 4)
    assert conditions.image.shape == (3, 5, 3)
    assert conditions.counts.tolist() == [3, 5, 2]
    assert torch.equal(conditions.face[0, :3], embeddings(3, 4).face)
    assert torch.equal(conditions.image[2, :2], embeddings(2, 1).image)
    assert not conditions.face[2, 2:].any()


def test_the_files_of_the_images_are_kept(tmp_path):
    one = embeddings(2)
    named = ImageEmbeddings(one.face, one.image, ("a.png", "b.png"))
    write_embeddings(tmp_path / "ann.safetensors", {"ann": named}, ENCODERS)
    assert EmbeddingCache.open(tmp_path).people["ann"].files == ("a.png", "b.png")


def test_embeddings_are_known_by_what_they_were_made_from(tmp_path) -> None:
    """And, where that is not recorded, by their values."""

    def digest(**changed) -> str:
        own = replace(embeddings(2, 1), files=("a.png", "b.png"), **changed)
        write_embeddings(tmp_path / "ann.safetensors", {"ann": own}, ENCODERS)
        return EmbeddingCache.open(tmp_path).digest(["ann"])

    other = embeddings(2, 2).face
    assert digest(made_from="x") == digest(made_from="x", face=other)
    assert digest(made_from="x") != digest(made_from="y")
    assert digest() != digest(face=other)
    digest(made_from="x")
    cache = EmbeddingCache.open(tmp_path)
    assert cache.without({"ann": ["b.png"]}).digest(["ann"]) != cache.digest(["ann"])


def test_files_with_an_axis_of_images_are_read(tmp_path):
    face, image = torch.randn(2, 3, 4), torch.randn(2, 3, 5)
    save_file({"face": face, "image": image, "person": torch.tensor([12, 5])}, tmp_path / "train.safetensors")
    cache = EmbeddingCache.open(tmp_path / "train.safetensors")
    conditions, _ = cache.of([5])
    assert torch.equal(conditions.image[0], image[1])
    assert cache.encoders is None
    cache.check(ENCODERS, (4, 5))


def test_of_a_thousand_images_some_are_taken_evenly(tmp_path):
    face = torch.arange(1000.0)[:, None]
    write_embeddings(tmp_path / "ann.safetensors", {"ann": ImageEmbeddings(face, -face)}, ENCODERS)
    conditions, _ = EmbeddingCache.open(tmp_path).of(["ann"])
    taken = conditions.face[0, :, 0]
    assert conditions.counts.tolist() == [64]
    assert torch.equal(taken, -conditions.image[0, :, 0])
    assert (taken.diff().min(), taken.diff().max()) == (15, 16)


def test_single_files_are_read_and_the_others_left_alone(folder):
    cache = EmbeddingCache.open(folder / "ann.safetensors", folder / "more.safetensors")
    assert sorted(cache.people) == ["7", "ann", "cleo"]


def test_people_without_embeddings_are_named_and_counted(folder):
    cache = EmbeddingCache.open(folder)
    with pytest.raises(ValueError, match=r"2 of 3 people have no embeddings in .*: dan, eve"):
        cache.of(["dan", "ann", "eve"])


def test_people_without_embeddings_can_be_left_out(folder):
    conditions, rows = EmbeddingCache.open(folder).of(["dan", "ann", "eve"], allow_missing=True)
    assert rows == [1]
    assert len(conditions.face) == 1


def test_only_who_can_set_it_is_told_to_leave_people_out(folder):
    cache = EmbeddingCache.open(folder)
    with pytest.raises(ValueError, match=r"or set embeddings\.allow_missing to leave them out\.$"):
        cache.of(["dan", "ann"], allow_missing=False)
    with pytest.raises(ValueError, match=r"settings file of train-difflora or train-teacher-free\.$"):
        cache.of(["dan", "ann"])


def test_nobody_at_all_is_refused_even_then(folder):
    with pytest.raises(ValueError, match="1 of 1 people have no embeddings"):
        EmbeddingCache.open(folder).of(["dan"], allow_missing=True)


def test_another_encoder_is_refused(folder):
    with pytest.raises(ValueError, match="embeddings by faces and images, expected other and images"):
        EmbeddingCache.open(folder).check(EncoderNames("other", "images"))


def test_another_width_is_refused(folder):
    with pytest.raises(ValueError, match=r"widths \(4, 3\) .*expected \(512, 3\)"):
        EmbeddingCache.open(folder).check(ENCODERS, (512, 3))


def test_encoders_are_not_mixed(folder):
    write_embeddings(folder / "dan.safetensors", {"dan": embeddings(1)}, EncoderNames("faces", "another"))
    with pytest.raises(ValueError, match=r"dan\.safetensors holds embeddings .* by faces and another"):
        EmbeddingCache.open(folder)


def test_widths_are_not_mixed(folder):
    write_embeddings(folder / "dan.safetensors", {"dan": embeddings(1, image=9)}, ENCODERS)
    with pytest.raises(ValueError, match=r"dan\.safetensors holds embeddings of widths \(4, 9\)"):
        EmbeddingCache.open(folder)


def test_a_person_in_two_files_is_refused(folder):
    write_embeddings(folder / "again.safetensors", {"bob": embeddings(1)}, ENCODERS)
    with pytest.raises(ValueError, match="holds bob, who is in another file"):
        EmbeddingCache.open(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_written(tmp_path, value):
    one = embeddings(3)
    one.image[1, 0] = value
    with pytest.raises(ValueError, match="the image embedding of ann's image 2 holds NaN or infinite values"):
        write_embeddings(tmp_path / "ann.safetensors", {"ann": one}, ENCODERS)
    assert not list(tmp_path.iterdir())


def test_what_is_not_finite_in_float32_is_not_written(tmp_path):
    one = ImageEmbeddings(torch.ones(2, 4, dtype=torch.float64) * 1e300, torch.ones(2, 3))
    with pytest.raises(ValueError, match="the face embedding of ann's image 1 holds NaN or infinite values"):
        write_embeddings(tmp_path / "ann.safetensors", {"ann": one}, ENCODERS)
    assert not list(tmp_path.iterdir())


def test_what_is_not_finite_is_not_read(tmp_path):
    face = torch.randn(1, 2, 4)
    face[0, 0, 3] = float("nan")
    tensors = {"face": face, "image": torch.randn(1, 2, 3), "person": torch.tensor([3])}
    save_file(tensors, tmp_path / "train.safetensors")
    with pytest.raises(ValueError, match="the face embedding of 3's image 1 holds NaN"):
        EmbeddingCache.open(tmp_path)


def test_encoders_that_saw_different_images_are_refused(tmp_path):
    with pytest.raises(ValueError, match="ann has 2 face and 3 image embeddings"):
        write_embeddings(
            tmp_path / "ann.safetensors", {"ann": ImageEmbeddings(torch.ones(2, 4), torch.ones(3, 4))}, ENCODERS
        )


def test_an_empty_folder_says_what_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="python -m training embed"):
        EmbeddingCache.open(tmp_path)


def test_another_file_is_refused(tmp_path):
    save_file({"weight": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="holds no embeddings: found the tensors weight"):
        EmbeddingCache.open(tmp_path)


GOOD = {"face": torch.ones(3, 4), "image": torch.ones(3, 2)}
HEADER = {"people": ["ann", "bob"], "counts": [1, 2], "files": [["a.png"], ["b.png", "c.png"]]}


@pytest.mark.parametrize(
    ("tensors", "header", "message"),
    [
        (GOOD | {"face": torch.ones(3)}, HEADER, r"'face' is torch.float32 \(3,\), expected floats \(images, width\)"),
        (GOOD | {"face": torch.ones(3, 4).long()}, HEADER, "'face' is torch.int64"),
        (GOOD | {"image": torch.ones(2, 2)}, HEADER, "3 face and 2 image embeddings of 2 people"),
        (GOOD | {"image": torch.ones(3, 0)}, HEADER, r"'image' is torch.float32 \(3, 0\)"),
        (GOOD, HEADER | {"counts": [1, 1]}, r"as its header counts: \[1, 1\]"),
        (GOOD, HEADER | {"counts": [-1, 4]}, r"as its header counts: \[-1, 4\]"),
        (GOOD, HEADER | {"counts": [1, "2"]}, "as its header counts"),
        (GOOD, HEADER | {"counts": [3]}, "as its header counts"),
        (GOOD, HEADER | {"counts": 3}, "'counts' of its header is 3, expected a list"),
        (GOOD, HEADER | {"people": {"ann": 1}}, "'people' of its header is {'ann': 1}, expected a list"),
        (GOOD, HEADER | {"files": [[], [1]]}, "'files' is .* expected a list of names"),
        (GOOD, HEADER | {"files": [None, None]}, "'files' is .* expected a list of names"),
        (GOOD, HEADER | {"files": [["a.png"]]}, "for 1 lists of files"),
        (GOOD, HEADER | {"made_from": ["x"]}, "1 hashes of what they were made from"),
        (GOOD, {"counts": [1, 2]}, "'people' of its header is None: 'people'"),
        (GOOD, HEADER | {"encoders": ["faces"]}, "cannot be read: the entry is .* expected a JSON object"),
        (GOOD, HEADER | {"encoders": {"face": "../x"}}, "the face encoder is '../x'"),
        (GOOD, HEADER | {"encoders": {"voice": "x"}}, "the encoders configuration has 'voice'"),
        (GOOD | {"person": torch.tensor([1])}, {}, r"expected floats \(people, images, width\)"),
        (
            {"face": torch.ones(2, 3, 4), "image": torch.ones(2, 3, 4), "person": torch.tensor([1])},
            {},
            r"'person' is torch.int64 \(1,\), expected 2 integers",
        ),
    ],
)
def test_a_damaged_file_is_named_with_what_was_found(tmp_path, tensors, header, message):
    path = tmp_path / "ann.safetensors"
    write_tensors(path, tensors, {key: json.dumps(value) for key, value in header.items()})
    with pytest.raises(ValueError, match=rf"ann\.safetensors.*{message}"):
        EmbeddingCache.open(path)


@pytest.mark.parametrize("text", ["[", "[" * 100_000, ""])
def test_a_header_that_is_no_json_is_named(tmp_path, text):
    path = tmp_path / "ann.safetensors"
    for key in ("people", "counts", "files", "encoders"):
        header = {name: json.dumps(value) for name, value in HEADER.items()} | {key: text}
        write_tensors(path, GOOD, header)
        with pytest.raises(ValueError, match=r"ann\.safetensors"):
            EmbeddingCache.open(path)
