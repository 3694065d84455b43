"""CLIP-T with a CLIP model of random weights."""

import pytest
import torch
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizerFast, CLIPVisionModelWithProjection

from miniature.comfyui.host import find_tokenizer
from training.pilot.prompt_similarity import PromptSimilarity

CAPTIONS = ["a portrait of a person, smiling", "a dark background"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("clip")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(text_config=sizes, vision_config=sizes | {"image_size": 32, "patch_size": 16}, projection_dim=8)
    CLIPModel(config).save_pretrained(path)
    CLIPTokenizerFast.from_pretrained(find_tokenizer()).save_pretrained(path)
    square = {"height": 32, "width": 32}
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=square).save_pretrained(path)
    return path


def test_cosine_of_image_and_caption(folder):
    similarity = PromptSimilarity.open(folder)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    found = similarity(images, CAPTIONS)
    pixels = CLIPImageProcessor.from_pretrained(folder)(list(images), do_rescale=False, return_tensors="pt")
    text = CLIPTokenizerFast.from_pretrained(folder)(CAPTIONS, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = similarity.model(**text, **pixels)
    torch.testing.assert_close(found, F.cosine_similarity(expected.image_embeds, expected.text_embeds))
    assert similarity(images, ["word " * 200, "a"]).isfinite().all()


def test_other_models_are_refused(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="no CLIP model"):
        PromptSimilarity.open(tmp_path)
    model = CLIPModel.from_pretrained(folder)
    CLIPVisionModelWithProjection(model.config.vision_config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"[Cc][Ll][Ii][Pp]"):
        PromptSimilarity.open(tmp_path)
