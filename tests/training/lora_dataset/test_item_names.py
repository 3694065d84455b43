"""Names of items, from names of every awkward kind."""

from training.lora_dataset.item_names import item_name
from training.lora_dataset.manifest import Manifest, Record

AWKWARD = [
    "Ann B", "ann b", "ann-b", "ann_b", "Ann\nB", "Zoë", "Zoe", "李小龍", "李小虎", "..", ".hidden", "a/b", "con",
    "nul", "x" * 300, "x" * 301, " ", "-", "tab\tname", "ann-b-0123456789ab", "caf\udce9", "*?<>|\":",
]  # fmt: skip


def test_awkward_names_become_different_safe_ones(tmp_path):
    names = [item_name(key) for key in AWKWARD]
    assert len({name.casefold() for name in names}) == len(AWKWARD)
    for name in names:
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_")
        assert len(name) < 60
        Manifest(tmp_path).write(Record(name))
    assert sorted(Manifest(tmp_path).done()) == sorted(names)


def test_both_forms_of_accents_are_one_name():
    assert item_name("Zo\u00eb") == item_name("Zoe\u0308")


def test_a_plain_name_stays_and_a_readable_part_is_kept():
    assert item_name("ann-b_2") == "ann-b_2"
    assert item_name("Zoë Müller").startswith("zoe-muller-")
    assert item_name("con") != "con"
