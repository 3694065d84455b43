"""Bad input on a real ComfyUI: each is an error whose message says what to do."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from miniature.comfyui.api_prompt import ApiPrompt
from tests.host.lora_files import files_named
from training.comfyui_client import Client, PromptError


def one_reference(workflow: ApiPrompt, image: str) -> ApiPrompt:
    """Return the workflow with a single reference and a node that shows the aligned faces."""
    graph = workflow.copy().set("Your picture 1", image=image)
    graph.set("Encode Face", image=graph.output("Your picture 1"))
    return graph.add("Crops", "PreviewImage", images=graph.output("Encode Face", 1))


def test_no_face_names_the_image(client: Client, workflow: ApiPrompt, nobody: str) -> None:
    with pytest.raises(PromptError, match=r"DiffLoRAEncodeFace: .*no face.*2 of 3"):
        client.run(workflow.copy().set("Your picture 2", image=nobody).only("Save LoRA").prompt)


def test_two_faces_can_be_chosen(client: Client, workflow: ApiPrompt, two_people: str) -> None:
    graph = one_reference(workflow, two_people)

    def crop(choose: str, index: int) -> bytes:
        chosen = graph.copy().set("Encode Face", choose=choose, index=index).only("Crops")
        return client.images(client.run(chosen.prompt), chosen.id("Crops"))[0].tobytes()

    assert crop("left to right", 1) == crop("largest", 0)
    assert crop("left to right", 0) == crop("largest", 1)
    assert crop("left to right", 0) != crop("left to right", 1)
    with pytest.raises(
        PromptError, match=r"2 faces, no number 2 .*'left to right' there are 0 at x \d+, .*, 1 at x \d+"
    ):
        crop("left to right", 2)
    graph = workflow.copy().set("Your picture 2", image=two_people).set("Encode Face", index=1)
    with pytest.raises(
        PromptError, match=r"1 face, no number 1 in image 1 of 3.*image 1 of 3: 1, image 2 of 3: 2, image 3 of 3: 1\."
    ):
        client.run(graph.only("Save LoRA").prompt)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("truncated.safetensors", "truncated"),
        ("foreign.safetensors", "no DiffLoRA checkpoint"),
        ("page.safetensors", "HTML page"),
        ("pointer.safetensors", "git lfs pull"),
        ("newer.safetensors", "update DiffLoRA"),
    ],
)
def test_wrong_checkpoint(client: Client, workflow: ApiPrompt, file: str, message: str) -> None:
    with pytest.raises(PromptError, match=rf"(?is)DiffLoRALoad: .*{message}"):
        client.run(workflow.copy().set("Load DiffLoRA", checkpoint=file).only("Save LoRA").prompt)


def test_wrong_base_model(client: Client, workflow: ApiPrompt, base: Path) -> None:
    """A LoRA with other modules than the model's, as SDXL's on SD 1.5: the core loader only logs a warning."""
    client.run(workflow.copy().set("Save LoRA", filename_prefix="foreign").only("Save LoRA").prompt)
    (path,) = files_named(base, "foreign")
    tensors = load_file(path)
    name = next(name for name in tensors if "down_blocks_1" in name).split(".")[0]
    deeper = name.replace("transformer_blocks_0", "transformer_blocks_9")
    assert deeper != name
    expect_error(
        client, workflow, base, "deeper", {key.replace(name, deeper): value for key, value in tensors.items()}, deeper
    )
    graph = with_file(workflow, base, "deeper", None).set("Your strength", strict=False)
    text = client.run(graph.only("Save Image").prompt).outputs[graph.id("Your strength")]["text"][0]
    patched, modules = map(int, text.split()[0].split("/"))
    assert patched == modules - 1
    wider = {
        key: torch.zeros(value.shape[0] + 8, *value.shape[1:]) if key == f"{name}.lora_up.weight" else value
        for key, value in tensors.items()
    }
    expect_error(client, workflow, base, "wider", wider, name)


def expect_error(
    client: Client, workflow: ApiPrompt, base: Path, name: str, tensors: dict[str, torch.Tensor], names: str
) -> None:
    """Pass a LoRA to Apply LoRA and expect an error that names the module.

    No core node reads a LoRA file onto the LORA_MODEL socket, so the tests' own custom nodes do.
    """
    graph = with_file(workflow, base, name, tensors)
    with pytest.raises(PromptError, match=rf"(?s)DiffLoRAApply: .*{names}"):
        client.run(graph.only("Save Image").prompt)


def with_file(workflow: ApiPrompt, base: Path, name: str, tensors: dict[str, torch.Tensor] | None) -> ApiPrompt:
    """Return the workflow with a LoRA file, written first if tensors are given, as input of Apply LoRA."""
    if tensors is not None:
        save_file(tensors, base / "models" / "loras" / f"{name}.safetensors")
    graph = workflow.copy().add("File", "DiffLoRALoadLoRA", lora_name=f"{name}.safetensors")
    return graph.set("Your strength", lora=graph.output("File"))


def swap(tensors: dict[str, torch.Tensor], name: str) -> None:
    """Exchange up and down."""
    up, down = f"{name}.lora_up.weight", f"{name}.lora_down.weight"
    tensors[up], tensors[down] = tensors[down], tensors[up]


def transpose(tensors: dict[str, torch.Tensor], _: str) -> None:
    """Exchange a module's input and output sizes: the same number of elements, which ComfyUI would accept."""
    name = next(key for key in tensors if "attn2_to_k.lora_up" in key).split(".")[0]
    up, down = f"{name}.lora_up.weight", f"{name}.lora_down.weight"
    assert tensors[up].shape[0] != tensors[down].shape[1]
    tensors[up], tensors[down] = tensors[down].T.contiguous(), tensors[up].T.contiguous()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (swap, "do not fit the model's weight"),
        (transpose, "do not fit the model's weight"),
        (
            lambda tensors, _: tensors.update({"stranger.weight": torch.ones(2, 2)}),
            "the model lacks 1 of the LoRA's 71 modules",
        ),
        (lambda tensors, name: tensors.pop(f"{name}.lora_up.weight"), "has only one of the two factors"),
        (lambda tensors, name: tensors[f"{name}.lora_up.weight"].fill_(torch.nan), "NaN"),
        (lambda tensors, name: tensors.clear(), "has no modules"),
    ],
    ids=["swapped", "transposed", "extra", "half", "nan", "empty"],
)
def test_damaged_lora(
    request: pytest.FixtureRequest, client: Client, workflow: ApiPrompt, base: Path, change, message: str
) -> None:
    client.run(workflow.copy().set("Save LoRA", filename_prefix="whole").only("Save LoRA").prompt)
    tensors = load_file(files_named(base, "whole")[0])
    change(tensors, next(iter(tensors)).split(".")[0])
    graph = with_file(workflow, base, f"damaged_{request.node.callspec.id}".replace("/", "_"), tensors)
    with pytest.raises(PromptError, match=rf"(?s)DiffLoRAApply: .*{message}"):
        client.run(graph.only("Save Image").prompt)


def test_lora_of_another_rank_has_no_latent(client: Client, workflow: ApiPrompt, base: Path) -> None:
    client.run(workflow.copy().set("Save LoRA", filename_prefix="rank").only("Save LoRA").prompt)
    tensors = load_file(files_named(base, "rank")[0])
    for key, tensor in tensors.items():
        if key.endswith("lora_down.weight"):
            tensors[key] = tensor[:2].contiguous()
        elif key.endswith("lora_up.weight"):
            tensors[key] = tensor[:, :2].contiguous()
    graph = with_file(workflow, base, "rank2", tensors)
    graph.add("Encode", "DiffLoRAEncode", model=graph.output("Load DiffLoRA"), lora=graph.output("File"))
    graph.set("Decode LoRA", latent=graph.output("Encode"))
    with pytest.raises(PromptError, match=r"DiffLoRAEncode: .*rank 2 .*expected rank 4"):
        client.run(graph.only("Save LoRA").prompt)


def test_face_of_another_recognizer(client: Client, workflow: ApiPrompt) -> None:
    graph = workflow.copy().set("Load Face Analysis", model_pack="measuring")
    with pytest.raises(PromptError, match=r"DiffLoRAMixFeatures: .*'measuring'.*'miniature'"):
        client.run(graph.only("Save LoRA").prompt)


def test_missing_features(client: Client, workflow: ApiPrompt) -> None:
    graph = workflow.copy()
    del graph.prompt[graph.id("Mix Features")]["inputs"]["clip_vision_output"]
    with pytest.raises(PromptError, match=r"needs image features: connect Load CLIP Vision to `clip_vision`"):
        client.run(graph.only("Save LoRA").prompt)
    client.run(graph.set("Mix Features", mode="face").only("Save LoRA").prompt)


def test_a_loss_that_is_not_finite_is_an_error(client: Client, workflow: ApiPrompt, base: Path) -> None:
    """A LoRA of finite values with which the U-Net overflows: training returns no LoRA of NaN."""
    client.run(workflow.copy().set("Save LoRA", filename_prefix="vast").only("Save LoRA").prompt)
    tensors = load_file(files_named(base, "vast")[0])
    graph = with_file(workflow, base, "vast", {name: tensor * 1e25 for name, tensor in tensors.items()})
    links = {name: graph.output("Load Checkpoint", slot) for slot, name in enumerate(("model", "clip", "vae"))}
    links |= {"lora": graph.output("File"), "images": graph.output("Your picture 1")}
    settings = {"prompt": "a portrait of a person", "steps": 2, "learning_rate": 1e-3, "batch_size": 1, "seed": 0}
    graph.add("Refine", "DiffLoRARefine", **links, **settings, gradient_checkpointing=False)
    graph.add("Curve", "PreviewImage", images=graph.output("Refine", 1))
    with pytest.raises(PromptError, match=r"DiffLoRARefine: the loss is not finite at step 1 of 2"):
        client.run(graph.only("Curve").prompt)


@pytest.mark.parametrize(
    ("title", "values", "message"),
    [
        ("Your strength", {"strength": "nan"}, r"DiffLoRAApply: `strength` is nan; it takes a number from -10"),
        ("Sample LoRA", {"latent_scale": "nan"}, r"DiffLoRASample: `latent_scale` is nan; it takes a number"),
        ("Sample LoRA", {"temperature": "nan"}, r"DiffLoRASample: `temperature` is nan; it takes a number from 0"),
        ("Sample LoRA", {"temperature": 2.5}, r"DiffLoRASample: .*bigger than max"),
        ("Sample LoRA", {"guidance_scale": "inf"}, r"DiffLoRASample: .*bigger than max"),
        ("Sample LoRA", {"scheduler": "euler"}, r"DiffLoRASample: .*(choices are |not in )"),
        ("Mix Features", {"mode": "x"}, r"DiffLoRAMixFeatures: .*(choices are gate, slider, face, image|not in )"),
        ("Load DiffLoRA", {"precision": "fp8"}, r"DiffLoRALoad: .*(choices are fp32, bf16, fp16|not in )"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, dict) else "",
)
def test_impossible_widget_values(
    client: Client, workflow: ApiPrompt, title: str, values: dict[str, str | float], message: str
) -> None:
    """As the API lets them through, which reads numbers from text; newer hosts check choices themselves."""
    with pytest.raises(PromptError, match=message):
        client.run(workflow.copy().set(title, **values).only("Save Image").prompt)
