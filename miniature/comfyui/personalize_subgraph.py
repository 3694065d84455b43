"""Subgraphs from reference images to a LoRA: Personalize, with which a beginner starts, and one without a model."""

from collections.abc import Mapping
from typing import Any

from difflora_core.denoiser.config import SamplingConfig

from .workflow_builder import WorkflowBuilder
from .workflow_graph import Output
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
    lora, widgets = _make_lora(builder, images)
    graph.group("Apply it")
    patched = builder.apply((base,), lora)
    graph.expose("model", patched)
    graph.expose("lora", lora)
    for source, widget in ((patched, "strength"), *widgets):
        graph.show_widget(source, widget)
    return graph


def person_lora(object_info: Mapping[str, Any], sampling: SamplingConfig) -> Subgraph:
    """A subgraph from images to LORA_MODEL, for workflows with several people."""
    graph = Subgraph(
        object_info,
        name="LoRA of a person",
        category="DiffLoRA",
        description="Makes a LoRA of the person in the reference images.",
    )
    lora, widgets = _make_lora(WorkflowBuilder(graph, sampling), graph.input("images", "IMAGE"))
    graph.expose("lora", lora)
    for source, widget in widgets:
        graph.show_widget(source, widget)
    return graph


def _make_lora(builder: WorkflowBuilder, images: Output) -> tuple[Output, list[tuple[Output, str]]]:
    """Add everything from images to a LoRA; return it, and the widgets to show with a node that has each."""
    graph = builder.graph
    graph.group("The networks")
    model = builder.load_difflora()
    encoders = builder.load_encoders(model=model)
    graph.group("Encode the person")
    features = builder.encode(images, encoders)
    graph.group("Make the LoRA")
    latent = builder.sample_latent(model, builder.mix(model, features))
    widgets = [(latent, "seed"), (model, "checkpoint"), (encoders[0], "model_pack"), (encoders[1], "clip_name")]
    return builder.decode(model, latent), widgets
