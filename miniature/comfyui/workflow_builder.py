"""The groups of nodes that all example workflows share."""

from collections.abc import Mapping, Sequence
from typing import Any

from difflora_core.denoiser.config import SamplingConfig

from .workflow_graph import Output, WorkflowGraph

PROMPT = "a portrait of a person, laughing, wearing a red beanie, blue shirt, yellow background"
WITHOUT_HAT = "a portrait of a person, laughing, blue shirt, yellow background"
CONTROL = {"strength": 0.8, "start_percent": 0.0, "end_percent": 0.8}
"""A compromise between pose and likeness, chosen on images of validation people."""


class WorkflowBuilder:
    """Adds groups of nodes to a workflow, from left to right: references, features, LoRA, image."""

    def __init__(self, object_info: Mapping[str, Any], sampling: SamplingConfig) -> None:
        """Start an empty workflow.

        Args:
            object_info: The server's description of its nodes.
            sampling: What the DiffLoRA checkpoint recommends.
        """
        self.graph, self.sampling = WorkflowGraph(object_info), sampling

    def references(self, names: Sequence[str], x: int, y: int, titles: Sequence[str]) -> Output:
        """Load images, below one another, and make them one batch."""
        images = [
            self.graph.add("LoadImage", title, (x, y + 350 * row), (270, 320), image=name)[0]
            for row, (name, title) in enumerate(zip(names, titles, strict=True))
        ]
        batch = images[0]
        for row, image in enumerate(images[1:]):
            place = (x + 300, y + 200 + 130 * row)
            batch = self.graph.add(
                "ImageBatch", f"References 1 to {row + 2}", place, (240, 46), image1=batch, image2=image
            )[0]
        return batch

    def load_encoders(self, x: int, y: int) -> tuple[Output, Output]:
        """Load the two frozen encoders: face analysis, CLIP vision."""
        pack = self.graph.add(
            "DiffLoRALoadFaceAnalysis", "Load Face Analysis", (x, y), (320, 82), model_pack="miniature", provider="CPU"
        )
        vision = self.graph.add(
            "DiffLoRALoadCLIPVision", "Load CLIP Vision", (x, y + 130), (320, 58), clip_name="miniature"
        )
        return pack[0], vision[0]

    def encode(
        self, images: Output, encoders: tuple[Output, Output], x: int, y: int, who: str = ""
    ) -> tuple[Output, Output]:
        """Encode images with both encoders: face features, image features."""
        pack, vision = encoders
        face, _ = self.graph.add(
            "DiffLoRAEncodeFace", f"Encode Face{who}", (x, y), (320, 380), image=images, face_analysis=pack
        )
        image_features = self.graph.add(
            "CLIPVisionEncode", f"CLIP Vision Encode{who}", (x, y + 430), (320, 78), clip_vision=vision, image=images
        )
        return face, image_features[0]

    def load_difflora(self, x: int, y: int) -> Output:
        """Load the DiffLoRA checkpoint."""
        return self.graph.add("DiffLoRALoad", "Load DiffLoRA", (x, y), (340, 216), checkpoint="miniature.safetensors")[
            0
        ]

    def sample_latent(
        self,
        model: Output,
        features: tuple[Output, Output],
        x: int,
        y: int,
        who: str = "",
        seed: int = 1,
        **settings: Any,
    ) -> Output:
        """Sample the latent of a LoRA from features."""
        face, image_features = features
        mixed = self.graph.add(
            "DiffLoRAMixFeatures",
            f"Mix Features{who}",
            (x, y),
            (340, 170),
            model=model,
            face=face,
            clip_vision_output=image_features,
        )[0]
        recommended = {
            "steps": self.sampling.steps,
            "guidance_scale": self.sampling.guidance_scale,
            "scheduler": self.sampling.scheduler,
            "samples": self.sampling.samples,
            "latent_scale": self.sampling.latent_scale,
        }
        own = bool(settings.keys() & recommended.keys())
        return self.graph.add(
            "DiffLoRASample",
            f"Sample LoRA{who}",
            (x, y + 220),
            (340, 270),
            model=model,
            features=mixed,
            seed=seed,
            **{**recommended, **settings, "settings": "custom" if own else "recommended"},
        )[0]

    def decode(self, model: Output, latent: Output, x: int, y: int) -> Output:
        """Decode a latent into a LoRA."""
        return self.graph.add("DiffLoRADecode", "Decode LoRA", (x, y), (340, 46), model=model, latent=latent)[0]

    def load_base_model(self, x: int, y: int) -> tuple[Output, ...]:
        """Load the base model: MODEL, CLIP, VAE."""
        return self.graph.add(
            "CheckpointLoaderSimple", "Load Checkpoint", (x, y), (360, 98), ckpt_name="miniature_sdxl.safetensors"
        )

    def apply(self, base: tuple[Output, ...], lora: Output, x: int, y: int, strength: float = 1.0) -> Output:
        """Apply a LoRA to the base model."""
        return self.graph.add(
            "DiffLoRAApply", "Apply LoRA", (x, y), (360, 190), model=base[0], lora=lora, strength=strength
        )[0]

    def load_control(self, image: Output, x: int, y: int) -> tuple[Output, Output]:
        """Load a ControlNet for edges, and find the edges of an image."""
        graph = self.graph
        net = graph.add(
            "ControlNetLoader", "Load ControlNet", (x, y), (320, 58), control_net_name="miniature_canny.safetensors"
        )
        lines = graph.add("Canny", "Canny", (x, y + 110), (320, 82), image=image, low_threshold=0.1, high_threshold=0.2)
        graph.add("PreviewImage", "Edges", (x, y + 250), (320, 320), images=lines[0])
        return net[0], lines[0]

    def generate_image(
        self,
        base: tuple[Output, ...],
        model: Output,
        x: int,
        y: int,
        name: str,
        prompt: str = PROMPT,
        control: tuple[Output, Output] | None = None,
    ) -> Output:
        """Generate an image and save it.

        Args:
            base: MODEL, CLIP, VAE of the base model.
            model: What samples: the base model, with or without a LoRA.
            x: Position in pixels.
            y: Position in pixels.
            name: Prefix of the saved file.
            prompt: What the image is to show.
            control: A ControlNet and its image.
        """
        _, clip, vae = base
        positive = self.graph.add("CLIPTextEncode", "Prompt", (x, y), (360, 110), text=prompt, clip=clip)[0]
        negative = self.graph.add("CLIPTextEncode", "Negative prompt", (x, y + 160), (360, 90), text="", clip=clip)[0]
        empty = self.graph.add(
            "EmptyLatentImage", "Empty Latent Image", (x, y + 300), (360, 106), width=128, height=128
        )[0]
        prompts, below = (positive, negative), y + 460
        if control:
            net, lines = control
            controlled = self.graph.add(
                "ControlNetApplyAdvanced",
                "Apply ControlNet",
                (x, below),
                (360, 190),
                positive=positive,
                negative=negative,
                control_net=net,
                image=lines,
                vae=vae,
                **CONTROL,
            )
            prompts, below = (controlled[0], controlled[1]), below + 240
        image = self.sample_image(model, prompts, vae, empty, x, below)
        self.graph.add("SaveImage", "Save Image", (x + 400, 200), (420, 480), images=image, filename_prefix=name)
        return image

    def sample_image(
        self, model: Output, prompts: tuple[Output, Output], vae: Output, empty: Output, x: int, y: int
    ) -> Output:
        """Add KSampler and VAE Decode."""
        samples = self.graph.add(
            "KSampler",
            "KSampler",
            (x, y),
            (360, 262),
            model=model,
            positive=prompts[0],
            negative=prompts[1],
            latent_image=empty,
            seed=1,
            steps=12,
            cfg=3.0,
            sampler_name="dpmpp_2m",
            scheduler="sgm_uniform",
        )[0]
        return self.graph.add("VAEDecode", "VAE Decode", (x + 400, 90), (420, 46), samples=samples, vae=vae)[0]
