"""LoRAs of the host's own programs: Apply LoRA changes weights as the core loader does; the reader finds their ΔW."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from difflora_core.lora.file_contents import read_contents
from difflora_core.lora.file_formats import read_lora
from difflora_core.lora.tensor_names import parse
from difflora_core.model import DiffLoRA
from miniature.base_model.config import LATENT_SHAPE
from miniature.comfyui.api_prompt import ApiPrompt
from miniature.paths import DIFFLORA_CHECKPOINT
from tests.host.core_nodes import add_core, output_of_type
from tests.host.lora_files import files_named
from training.comfyui_client import Client, PromptError

State = dict[str, Tensor]
LAYOUT = DiffLoRA.load(DIFFLORA_CHECKPOINT).layout


def trained(client: Client, workflow: ApiPrompt, algorithm: str) -> ApiPrompt:
    """Return the workflow with core's Train LoRA, which trains every layer for two steps."""
    graph = workflow.copy()
    graph.add("Batch", "VAEEncode", pixels=graph.output("Pictures 1 to 2"), vae=graph.output("Load Checkpoint", 2))
    graph.add("Latents", "RebatchLatents", latents=graph.output("Batch"), batch_size=1)  # the node trains on lists only
    links = {name: graph.output(title) for name, title in (("model", "Load Checkpoint"), ("latents", "Latents"))}
    settings = {
        "batch_size": 1,
        "grad_accumulation_steps": 1,
        "steps": 2,
        "learning_rate": 1e-2,
        "rank": 4,
        "optimizer": "AdamW",
        "loss_function": "MSE",
        "seed": 0,
        "training_dtype": "fp32",
        "lora_dtype": "fp32",
        "gradient_checkpointing": False,
        "existing_lora": "[None]",
    }
    return add_core(
        client,
        graph,
        "Train",
        "TrainLoraNode",
        **links,
        positive=graph.output("Your prompt"),
        **settings,
        algorithm=algorithm,
    )


def lora_of(client: Client, graph: ApiPrompt) -> list[object]:
    """Return the LORA_MODEL output of the node titled Train."""
    return output_of_type(client, graph, "Train", "LORA_MODEL")


def from_file(workflow: ApiPrompt, base: Path, name: str, tensors: State) -> ApiPrompt:
    """Return the workflow with a LoRA file as the node titled Train."""
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, base / "models" / "loras" / f"{name}.sft")
    return workflow.copy().add("Train", "DiffLoRALoadLoRA", lora_name=f"{name}.sft")


def weights(client: Client, graph: ApiPrompt, base: Path, name: str, loader: str, **widgets: object) -> State:
    """Apply the LoRA of the node titled Train and return patched weights and changes."""
    graph = graph.copy().set("Your strength", lora=lora_of(client, graph), **widgets)
    if loader == "core":
        model = graph.output("Load Checkpoint")
        add_core(client, graph, "Core", "LoraModelLoader", model=model, lora=lora_of(client, graph), strength_model=1.0)
    source = graph.output("Core" if loader == "core" else "Your strength")
    graph.add("Weights", "DiffLoRATestWeightChanges", model=source, name=f"{name}_{loader}")
    client.run(graph.only("Weights").prompt)
    return load_file(base / "output" / f"{name}_{loader}.safetensors")


def same_as_core(client: Client, graph: ApiPrompt, base: Path, name: str) -> State:
    """Check that Apply LoRA makes the core loader's weights bit for bit, and return them."""
    core, ours = (weights(client, graph, base, name, loader) for loader in ("core", "ours"))
    assert core.keys() == ours.keys()
    assert all(torch.equal(core[key], ours[key]) for key in core)
    return ours


@pytest.fixture(scope="module")
def generated(client: Client, workflow: ApiPrompt, base: Path) -> State:
    """A generated LoRA, as Save LoRA writes it."""
    client.run(workflow.copy().set("Save LoRA", filename_prefix="formats").only("Save LoRA").prompt)
    return load_file(files_named(base, "formats")[0])


@pytest.mark.parametrize("algorithm", ["LoRA", "LoHa", "LoKr", "OFT"])
def test_what_core_trains_is_applied_as_core_does(
    client: Client, workflow: ApiPrompt, base: Path, algorithm: str
) -> None:
    graph = trained(client, workflow, algorithm)
    found = same_as_core(client, graph, base, algorithm)
    modules = {key.split()[1].rpartition(".")[0] for key in found}
    assert any(found[f"patched {module}.weight"].ndim == 4 for module in modules), "no convolution was trained"
    assert len(found) > 2 * len(modules), "no bias was trained"
    graph.set("Your strength", lora=lora_of(client, graph), strength=0.5).set("Empty Latent Image", width=64, height=64)
    ours = client.run(graph.set("KSampler", steps=1).only("Save Image").prompt)
    assert ours.outputs[graph.id("Your strength")]["text"][0] == f"{len(modules)}/{len(modules)} modules patched"
    core = add_core(client, graph.copy(), "Core", "LoraModelLoader", lora=lora_of(client, graph), strength_model=0.5)
    core.set("Core", model=core.output("Load Checkpoint")).set("KSampler", model=core.output("Core"))
    images = client.images(client.run(core.only("Save Image").prompt), core.id("Save Image"))
    assert images[0].tobytes() == client.images(ours, graph.id("Save Image"))[0].tobytes()


def test_the_reader_finds_the_weight_changes_of_a_trained_file(client: Client, workflow: ApiPrompt, base: Path) -> None:
    graph = trained(client, workflow, "LoRA")
    found = same_as_core(client, graph, base, "read")
    client.run(graph.add("File", "SaveLoRA", lora=lora_of(client, graph), prefix="loras/core").only("File").prompt)
    path = files_named(base, "core")[0]
    with pytest.raises(ValueError, match=r"diff_b changes a bias"):
        read_contents(path, LAYOUT)
    tensors = load_file(path)
    names = {module: name for name, module in table(tensors).items()}
    biases = {f"{name}.diff_b" for name in names.values()} & tensors.keys()
    contents = read_contents({key: tensor for key, tensor in tensors.items() if key not in biases}, LAYOUT)
    for module, (down, up) in contents.factors.items():
        expected = found[f"change {names[module]}.weight"].double()
        assert float((up.double() @ down.double() - expected).norm() / expected.norm()) <= 1e-5
    outside = sum(float(change.double().square().sum()) for key, change in found.items() if key.startswith("change"))
    outside -= sum(float(found[f"change {name}.weight"].double().square().sum()) for name in names.values())
    outside -= sum(float(tensors[key].double().square().sum()) for key in biases)
    assert contents.other_norm == pytest.approx(outside, rel=1e-5)


def table(tensors: State) -> dict[str, str]:
    """Return modules of the layout by the names that a file has."""
    layers = {parse(key).layer for key in tensors}
    tables = [{n: m for n, m in table.items() if n in layers} for table in LAYOUT.base.name_tables(LAYOUT.names)]
    return max(tables, key=len)


def test_the_core_loader_and_the_reader_agree_on_every_naming(
    client: Client, workflow: ApiPrompt, base: Path, generated: State
) -> None:
    factors = LAYOUT.unflatten(read_lora(generated, LAYOUT))
    namings: dict[str, Callable[[str], tuple[str, str, str]]] = {
        "diffusers_2023": lambda name: (former(name), "_lora.down.weight", "_lora.up.weight"),
        "lycoris": lambda name: (f"lycoris_{name.replace('.', '_')}", ".lora_down.weight", ".lora_up.weight"),
    }
    for title, naming in namings.items():
        tensors = {}
        for name, (down, up) in factors.items():
            if ".attn" in name:
                layer, *suffixes = naming(name)
                tensors |= {layer + suffixes[0]: down[..., None, None], layer + suffixes[1]: up[..., None, None]}
        found = same_as_core(client, from_file(workflow, base, title, tensors), base, title)
        assert len(found) == len(tensors)
        attention = type(LAYOUT)(tuple(m for m in LAYOUT.modules if ".attn" in m.name), LAYOUT.rank)
        flat = read_lora(tensors, attention)
        expected = torch.cat([(up @ down).flatten().sort().values for down, up in attention.unflatten(flat).values()])
        changes = [found[key].flatten().sort().values for key in sorted(found) if key.startswith("change")]
        assert torch.cat(changes).norm() == pytest.approx(float(expected.norm()), rel=1e-5)


def former(name: str) -> str:
    """Return diffusers' name of 2023."""
    return f"unet.{name.removesuffix('.0').replace('.to_', '.processor.to_')}"


def test_a_convolution_of_three_factors(client: Client, workflow: ApiPrompt, base: Path, generated: State) -> None:
    names = [f"lora_unet_input_blocks_1_0_{layer}" for layer in ("in_layers_2", "out_layers_3")]
    weight = "diffusion_model.input_blocks.1.0.in_layers.2.weight"
    size = trained_shape(client, workflow, base, weight)
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"{names[0]}.lora_down.weight": torch.randn(2, size[1], 1, 1, generator=generator),
        f"{names[0]}.lora_mid.weight": torch.randn(2, 2, 3, 3, generator=generator),
        f"{names[0]}.lora_up.weight": torch.randn(size[0], 2, 1, 1, generator=generator),
        f"{names[0]}.alpha": torch.tensor(1.0),
    }
    found = same_as_core(client, from_file(workflow, base, "locon", tensors), base, "locon")
    assert found[f"change {weight}"].norm() > 0
    contents = read_contents(generated | tensors, LAYOUT)
    assert contents.other_norm == pytest.approx(float(found[f"change {weight}"].double().square().sum()), rel=1e-5)


def trained_shape(client: Client, workflow: ApiPrompt, base: Path, weight: str) -> tuple[int, ...]:
    """Return the shape of a weight of the host's model."""
    return tuple(weights(client, trained(client, workflow, "LoRA"), base, "shape", "core")[f"patched {weight}"].shape)


Change = Callable[[State, str], object]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, n: s.update({f"{n}.lora_magnitude_vector": torch.ones(4)}), "belongs|does not know what"),
        (lambda s, n: s.update({f"{n}.scalar": torch.ones(())}), "does not know what"),
        (lambda s, n: s.update({f"{n}.diff": torch.ones(4, 4)}), r"in several ways \(LoRA, diff\)"),
        (lambda s, n: s.update({f"{n}.hada_w1_a": torch.ones(4, 4)}), r"in several ways|lacks '.*hada"),
        (lambda s, n: s.update({f"{n}.diff_b": torch.ones(3)}), r"the model has no .*bias|does not fit the model's"),
        (lambda s, n: s.update({f"{n}.dora_scale": torch.ones(3, 1)}), "does not fit the model's"),
        (lambda s, n: s.update({key: t.to(torch.complex64) for key, t in s.items()}), "complex"),
    ],
    ids=["peft dora", "scalar", "diff", "loha", "bias", "dora", "complex"],
)
def test_what_the_core_loader_would_skip_is_refused_not_only_if_strict(
    request: pytest.FixtureRequest,
    client: Client,
    workflow: ApiPrompt,
    base: Path,
    generated: State,
    change: Change,
    message: str,
) -> None:
    tensors = dict(generated)
    change(tensors, next(iter(tensors)).split(".")[0])
    name = request.node.callspec.id.replace(" ", "_")
    graph = from_file(workflow, base, name, tensors)
    with pytest.raises(PromptError, match=rf"(?s)DiffLoRAApply: .*({message})"):
        weights(client, graph, base, name, "ours", strict=False)


def test_the_way_out_for_other_methods_works(client: Client, workflow: ApiPrompt, base: Path) -> None:
    """What the reader's messages advise: apply it, subtract the base model, extract a LoRA."""
    graph = trained(client, workflow, "LoHa")
    found = weights(client, graph, base, "loha_change", "core")
    model = graph.output("Load Checkpoint")
    add_core(client, graph, "Core", "LoraModelLoader", model=model, lora=lora_of(client, graph), strength_model=1.0)
    graph.add("Difference", "ModelMergeSubtract", model1=graph.output("Core"), model2=model, multiplier=1.0)
    settings = {"filename_prefix": "loras/extracted", "rank": 16, "lora_type": "standard", "bias_diff": False}
    graph.add("Extract", "LoraSave", model_diff=graph.output("Difference"), **settings)
    client.run(graph.only("Extract").prompt)
    path = files_named(base, "extracted")[0]
    names = {module: name for name, module in table(load_file(path)).items()}
    factors = read_contents(path, LAYOUT).factors.items()
    pairs = [((up @ down).flatten(), found[f"change {names[name]}.weight"].flatten()) for name, (down, up) in factors]
    extracted, change = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    # No more alike: the node clamps the largest values of the factors
    assert torch.nn.functional.cosine_similarity(extracted, change, dim=0) > 0.9


def refined(client: Client, graph: ApiPrompt, base: Path, name: str) -> State:
    """Train the LoRA of the node titled Train for two more steps, and return it as saved."""
    graph = graph.copy()
    links = {title: graph.output("Load Checkpoint", slot) for slot, title in enumerate(("model", "clip", "vae"))}
    settings = {"prompt": "a portrait of a person", "steps": 2, "learning_rate": 1e-3, "batch_size": 1, "seed": 0}
    links |= {"lora": lora_of(client, graph), "images": graph.output("Your picture 1")}
    graph.add("Refine", "DiffLoRARefine", **links, **settings, gradient_checkpointing=False)
    graph.add("File", "SaveLoRA", lora=graph.output("Refine"), prefix=f"loras/{name}")
    client.run(graph.only("File").prompt)
    return load_file(files_named(base, name)[0])


def test_what_core_trains_is_refined_in_every_factor(client: Client, workflow: ApiPrompt, base: Path) -> None:
    graph = trained(client, workflow, "LoRA")
    client.run(
        graph.copy()
        .add("File", "SaveLoRA", lora=lora_of(client, graph), prefix="loras/trained_start")
        .only("File")
        .prompt
    )
    before = load_file(files_named(base, "trained_start")[0])
    after = refined(client, graph, base, "trained_refined")
    assert {key: tensor.shape for key, tensor in after.items()} == {key: tensor.shape for key, tensor in before.items()}
    factors = [key for key in before if parse(key).role in ("down", "up")]
    assert any("in_layers" in key for key in factors), "no convolution is among them"
    assert [key for key in factors if torch.equal(after[key], before[key])] == []


def test_methods_without_factors_are_not_refined(client: Client, workflow: ApiPrompt, base: Path) -> None:
    with pytest.raises(PromptError, match=r"DiffLoRARefine: only LoRAs with kohya names can be trained further"):
        refined(client, trained(client, workflow, "LoHa"), base, "loha_refined")


def test_factors_of_convolutions_are_refined_and_changes_of_biases_applied_meanwhile(
    client: Client, workflow: ApiPrompt, base: Path, generated: State
) -> None:
    tensors = {key: tensor[..., None, None] if tensor.ndim == 2 else tensor for key, tensor in generated.items()}
    biased = tensors | {"lora_unet_conv_out.diff_b": torch.ones(LATENT_SHAPE[0])}
    results = {
        name: refined(client, from_file(workflow, base, name, lora), base, name)
        for name, lora in (("convolutions", tensors), ("biased", biased))
    }
    for key in (key for key in tensors if "lora_" in key.split(".")[1]):
        after = results["convolutions"][key]
        assert not torch.equal(after.flatten(), tensors[key].flatten()), key
        assert not torch.equal(after, results["biased"][key]), f"{key} was trained as if there were no bias"
