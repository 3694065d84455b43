"""The prompts that come with the project fit SDXL and the miniature."""

import pytest

from training.lora_dataset.config import GenerateConfig
from training.lora_dataset.photomaker.pipeline import PhotoMakerPipeline
from training.lora_dataset.prompt_files import PROMPTS, read_negative, read_prompts


def test_own_prompts_fit_sdxl_with_many_references(photomaker: PhotoMakerPipeline) -> None:
    prompts = read_prompts(GenerateConfig(), "woman")
    assert len(set(prompts)) == len(prompts) >= 40
    ids, _ = photomaker.tokens(prompts, "woman", 8)
    assert max(map(len, ids)) < 77  # 77 would mean that something was cut off
    assert len(photomaker.pipeline.tokenizer(read_negative(GenerateConfig())).input_ids) <= 77


def test_miniature_prompts_use_known_words_only(photomaker: PhotoMakerPipeline) -> None:
    prompts = read_prompts(GenerateConfig(prompts=PROMPTS / "miniature.txt"), "person")
    ids = sorted({token for row in photomaker.tokens(prompts, "person", 1)[0] for token in row})
    table = photomaker.pipeline.text_encoder.get_input_embeddings().weight
    assert (table[ids].norm(dim=1) > 0).all()
    assert read_negative(GenerateConfig(negative=PROMPTS / "empty.txt")) == ""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_mark_is_no_part_of_a_prompt(tmp_path, encoding):
    """Notepad and PowerShell write marks; the first line may be a comment."""
    (tmp_path / "prompts.txt").write_text("# Zoë's\na {person} in a café\n", encoding=encoding)
    assert read_prompts(GenerateConfig(prompts=tmp_path / "prompts.txt"), "woman") == ["a woman in a café"]
    assert read_negative(GenerateConfig(negative=tmp_path / "prompts.txt")) == "a {person} in a café"


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16-le"])
def test_prompts_in_another_encoding_are_named(tmp_path, encoding):
    (tmp_path / "prompts.txt").write_text("a {person} in a café\n", encoding=encoding)
    with pytest.raises(ValueError, match=r"prompts\.txt .*: save it as UTF-8"):
        read_prompts(GenerateConfig(prompts=tmp_path / "prompts.txt"), "woman")
