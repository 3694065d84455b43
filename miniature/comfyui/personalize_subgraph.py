"""The subgraph Personalize, with which a beginner starts."""

from collections.abc import Mapping
from typing import Any

from difflora_core.denoiser.config import SamplingConfig

from .workflow_builder import WorkflowBuilder
from .workflow_subgraph import Subgraph


def personalize(object_info: Mapping[str, Any], sampling: SamplingConfig) -> Subgraph:
    """The subgraph: images and MODEL to MODEL and LORA_MODEL, with the widgets that a beginner needs."""
    graph = Subgraph(
        object_info,
        name="Personalize",
        category="DiffLoRA",
        description="Makes a LoRA of the person in the reference images, and applies it to the model.",
    )
    builder = WorkflowBuilder(graph, sampling)
    images, base = graph.input("images", "IMAGE"), graph.input("model", "MODEL")
    graph.group("The networks")
    model = builder.load_difflora()
    encoders = builder.load_encoders(model=model)
    graph.group("Encode the person")
    features = builder.encode(images, encoders)
    graph.group("Make the LoRA")
    latent = builder.sample_latent(model, builder.mix(model, features))
    graph.group("Apply it")
    lora = builder.decode(model, latent)
    patched = builder.apply((base,), lora)
    graph.expose("model", patched)
    graph.expose("lora", lora)
    for source, widget in (
        (patched, "strength"),
        (latent, "seed"),
        (model, "checkpoint"),
        (encoders[0], "model_pack"),
        (encoders[1], "clip_name"),
    ):
        graph.show_widget(source, widget)
    return graph
