"""The prompts that come with the project fit SDXL and the miniature."""

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
