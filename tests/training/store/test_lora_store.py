"""The store of LoRAs keeps every person once, and a shard completely or not at all."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from difflora_core.files import write_tensors
from difflora_core.lora.layout import LoRALayout, LoRAModule
from training.store import lora_store
from training.store.lora_store import Entry, LoRAStore
from training.store.shard import read_shard
from training.store.shard_file import read_header

LAYOUT = LoRALayout((LoRAModule("m.transformer_blocks.0.attn1.to_q", 3, 2),), rank=2)
LORAS = torch.arange(4 * LAYOUT.numel, dtype=torch.float32).view(4, -1)


@pytest.fixture
def store(tmp_path) -> LoRAStore:
    store = LoRAStore(tmp_path / "store", LAYOUT)
    store.add("train", [7, 9], LORAS[2:], loss=torch.tensor([0.3, 0.4]))
    store.add("train", [2, 5], LORAS[:2], loss=torch.tensor([0.1, 0.2]))
    return store


def test_rows_come_back_with_their_people(store):
    loras, people = LoRAStore(store.folder, LAYOUT).read("train")
    assert people == [2, 5, 7, 9]
    assert torch.equal(loras, LORAS)
    assert torch.equal(store.read("train", "loss")[0], torch.tensor([0.1, 0.2, 0.3, 0.4]))


def test_a_slice_of_all_loras(store):
    assert torch.equal(store.columns("train", 3, 6), LORAS[:, 3:6])


def test_done_shards_are_known(store):
    assert store.has("train", [7, 9])
    assert not store.has("validation", [7, 9])


def test_a_person_is_stored_once(store):
    with pytest.raises(ValueError, match="person 5 in 'train' already"):
        store.add("train", [1, 5], LORAS[:2])


def test_another_layout_is_refused(store):
    other = LoRALayout(LAYOUT.modules, rank=3)
    with pytest.raises(ValueError, match="another layout: rank 2 instead of 3"):
        LoRAStore(store.folder, other)


@pytest.mark.parametrize(
    ("loras", "loss", "message"), [(3, 2, "2 people and 3 rows of loras"), (2, 3, "2 people and 3 rows of loss")]
)
def test_a_shard_has_a_row_for_each_person(store, loras, loss, message):
    with pytest.raises(ValueError, match=message):
        store.add("train", [31, 32], LORAS[:loras], loss=torch.zeros(loss))


def test_weights_that_are_not_finite_are_refused_with_the_person(store):
    with pytest.raises(ValueError, match="person 31 holds NaN"):
        store.add("train", [30, 31], torch.stack([LORAS[0], LORAS[1] * float("nan")]))
    with pytest.raises(ValueError, match="person 31 holds NaN or infinite weights in float32"):
        store.add("train", [30, 31], torch.stack([LORAS[0].double(), LORAS[1].double() * 1e300]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "its content is not JSON"),
        (b"\xff\xfe", "is not in UTF-8"),
        (b"[1]", r"its content is \[1\]"),
        (b'{"rank": 2}', "'modules' is missing"),
        (b'{"rank": 2, "modules": [["m", 3]]}', "out_features"),
        (b'{"rank": 2, "modules": [["m", 3, "2"]]}', "module is a name and two widths"),
        (b'{"rank": 2, "modules": [["m", 3, -2]]}', "module is a name and two widths"),
        (b'{"rank": null, "modules": [["m", 3, 2]]}', "rank is an integer"),
    ],
)
def test_a_damaged_layout_is_named(store, content, message):
    (store.folder / "layout.json").write_bytes(content)
    for open_store in (LoRAStore.open, lambda folder: LoRAStore(folder, LAYOUT)):
        with pytest.raises(ValueError, match=rf"layout\.json is no layout of LoRAs: .*{message}.* Copy the file"):
            open_store(store.folder)


def test_rows_and_people_are_of_one_version_of_a_shard(store, monkeypatch):
    """Another process replaces a shard between the reading of its header and of its rows."""
    (path, _), changes = store.paths("train"), iter([([5, 2], LORAS[[1, 0]]), ([30, 2], LORAS[[3, 0]])])

    def replaced_meanwhile(path_: Path) -> object:
        found = read_shard(path_)
        if path_ == path and (change := next(changes, None)):
            write_tensors(path, {"loras": change[1]}, {"people": json.dumps(change[0])})
        return found

    monkeypatch.setattr(lora_store, "read_shard", replaced_meanwhile)
    loras, people = LoRAStore.open(store.folder).read("train")
    assert people == [30, 2, 7, 9]
    assert torch.equal(loras, LORAS[[3, 0, 2, 3]])


def test_a_half_written_shard_does_not_count(store):
    (store.folder / "train" / ".00011.safetensors.1.partial").write_bytes(b"half")
    assert store.read("train")[1] == [2, 5, 7, 9]


def test_an_empty_split_says_so(store):
    with pytest.raises(FileNotFoundError, match="no LoRAs of split 'held_out'"):
        store.read("held_out")


def test_people_may_have_names(tmp_path):
    store = LoRAStore(tmp_path, LAYOUT)
    store.add("train", ["zoë", "ann"], LORAS[:2])
    store.add("train", ["bob"], LORAS[2:3])
    loras, people = LoRAStore.open(tmp_path).read("train")
    assert people == ["bob", "zoë", "ann"]
    assert torch.equal(loras, LORAS[[2, 0, 1]])


@pytest.mark.parametrize("name", ["", "a/b", "../b", ".hidden"])
def test_a_name_that_is_not_a_file_name_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="cannot be a person's name"):
        LoRAStore(tmp_path, LAYOUT).add("train", [name], LORAS[:1])


def test_a_person_is_in_one_split_only(store):
    with pytest.raises(ValueError, match="person 7 in 'train' already"):
        store.add("validation", [7], LORAS[:1])


def test_a_person_is_in_a_shard_once(store):
    with pytest.raises(ValueError, match="in the shard of 30 twice"):
        store.add("train", [30, 30], LORAS[:2])


def test_a_number_and_a_name_that_share_a_file_are_refused(store):
    with pytest.raises(ValueError, match=r"00007\.safetensors exists already: people are all numbers or all names"):
        store.add("train", ["00007"], LORAS[:1])


def test_the_index_lists_all_people(store):
    origin = {"source": "dreambooth", "seed": 3}
    store.add("test", [30, 31], LORAS[:2], provenance=[origin, {"source": "import"}], loss=torch.tensor([0.5, 0.25]))
    entries = list(LoRAStore.open(store.folder).entries())
    assert [(entry.split, entry.person) for entry in entries] == [
        ("test", 30), ("test", 31), ("train", 2), ("train", 5), ("train", 7), ("train", 9),
    ]  # fmt: skip
    assert entries[1] == Entry(31, "test", entries[0].shard, 1, 2, {"source": "import"}, {"loss": 0.25})
    assert entries[0].provenance == origin
    assert store.count("train") == 4


def test_equal_provenance_is_stored_once(store):
    text = "a long story " * 50
    store.add("test", [30, 31, 32], LORAS[:3], provenance=[{"story": text}] * 3)
    metadata = read_header(store.folder / "test" / "00030.safetensors")[0]["__metadata__"]
    assert metadata["provenance"].count(text) == 1
    assert [entry.provenance["story"] for entry in store.entries("test")] == [text] * 3


@pytest.mark.skipif(sys.platform == "win32", reason="a file with a hole")
def test_the_index_does_not_read_the_loras(tmp_path):
    """The LoRAs are a hole of four terabytes."""
    store = LoRAStore(tmp_path / "store", LoRALayout((LoRAModule("m", 10**11, 10**11),), rank=2))
    size = 2 * 4 * store.layout.numel
    header = {
        "__metadata__": {"people": "[30, 31]"},
        "loss": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "loras": {"dtype": "F32", "shape": [2, store.layout.numel], "data_offsets": [8, 8 + size]},
    }
    text = json.dumps(header).encode()
    (store.folder / "test").mkdir()
    assert size > 3 * 10**12
    with (store.folder / "test" / "00030.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + torch.tensor([0.5, 0.25]).numpy().tobytes())
        file.truncate(file.tell() + size)
    assert [(entry.person, entry.measured["loss"]) for entry in store.entries("test")] == [(30, 0.5), (31, 0.25)]


def test_a_shard_of_another_process_is_seen(store):
    other = LoRAStore.open(store.folder)
    assert other.count("train") == 4
    store.add("train", [30], LORAS[:1])
    assert other.count("train") == 5


@pytest.mark.parametrize(("keep", "message"), [(-5, "truncated"), (4, "not a safetensors file")])
def test_a_damaged_shard_is_named(store, keep, message):
    path = store.folder / "train" / "00007.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=rf"00007\.safetensors is {message}"):
        list(LoRAStore.open(store.folder).shards("train"))


def test_no_store_in_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no store"):
        LoRAStore.open(tmp_path)


def test_a_full_disk_leaves_no_part_of_a_shard(store, monkeypatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        store.add("train", [30], LORAS[:1])
    assert caught.value.errno == errno.ENOSPC
    assert sorted(path.name for path in (store.folder / "train").iterdir()) == [
        "00002.safetensors",
        "00007.safetensors",
    ]


ADD_AT_ONCE = """
import sys, time, torch
from pathlib import Path
from difflora_core.lora.layout import LoRALayout, LoRAModule
from training.store.lora_store import LoRAStore
folder, number, processes = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
store = LoRAStore(folder, LoRALayout((LoRAModule("m", 3, 2),), rank=2))
(folder / f"ready_{number}").touch()
while len(list(folder.glob("ready_*"))) < processes:
    time.sleep(0.001)
try:
    store.add("train" if int(number) % 2 else "test", [f"p{number}", "x"], torch.ones(2, store.layout.numel))
except ValueError as error:
    print(error)
"""


def test_a_person_whom_several_processes_add_at_once_is_stored_once(tmp_path):
    command, count = [sys.executable, "-c", ADD_AT_ONCE, str(tmp_path)], 4
    root = Path(__file__).parents[3]
    running = [
        subprocess.Popen(
            [*command, str(number), str(count)],
            cwd=root,
            env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]
    said = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0] * count
    assert sum("has person x in" in text for text in said) == count - 1
    assert [entry.person for entry in LoRAStore.open(tmp_path).entries()].count("x") == 1


def test_a_shard_takes_the_place_of_another(store):
    first, second = store.paths("train")
    store.add("train", [2, 30], LORAS[2:], replaced=first, loss=torch.ones(2))
    store.add("train", [9], LORAS[:1], replaced=second, loss=torch.ones(1))
    assert store.read("train")[1] == [2, 30, 9]
    assert not second.exists()
    with pytest.raises(ValueError, match="person 9 in 'train' already"):
        store.add("train", [2, 9], LORAS[:2], replaced=first)
    store.remove(first)
    assert store.read("train")[1] == [9]


WRITE_TOO_MUCH = """
import resource, sys, torch
from difflora_core.lora.layout import LoRALayout, LoRAModule
from training.store.lora_store import LoRAStore
store = LoRAStore(sys.argv[1], LoRALayout((LoRAModule("m", 300, 200),), rank=2))
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    store.add("train", [1], torch.zeros(1, 1000))
except OSError as error:
    print(error.errno)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of file sizes are POSIX")
def test_an_error_of_the_system_while_safetensors_writes_is_passed_on(tmp_path):
    """A file that may not grow: the same code path as a full disk, which a test cannot make."""
    done = subprocess.run(
        [sys.executable, "-c", WRITE_TOO_MUCH, str(tmp_path)],
        cwd=Path(__file__).parents[3],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [str(errno.EFBIG)]
    assert list((tmp_path / "train").iterdir()) == []
