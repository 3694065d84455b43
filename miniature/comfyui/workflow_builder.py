"""The groups of nodes that all example workflows share. Where they stand is decided by the workflow that adds them."""

from collections.abc import Sequence
from dataclasses import asdict

from difflora_core.denoiser.config import SamplingConfig

from .workflow_graph import Output, WorkflowGraph

PROMPT = "a portrait of a person, laughing, wearing a red beanie, blue shirt, yellow background"
OTHER_PROMPT = "a portrait of a person, smiling, green shirt, blue background"
WITH_BLUE_BEANIE = "a portrait of a person, laughing, wearing a blue beanie, blue shirt, yellow background"
CONTROL = {"strength": 0.8, "start_percent": 0.0, "end_percent": 0.8}
"""A compromise between pose and likeness, chosen on images of validation people."""
RESULT, WIDE_RESULT = (470, 580), (900, 700)
"""Width and height in pixels of the node that shows the result: one image, images side by side."""
SIDE_OF_GUIDANCE = "positive"
"""Of the nodes that apply a LoRA: chosen on images of validation people."""
SIDE, ENLARGED = 128, 4
"""Of the miniature's images in pixels, and the factor with which they are shown."""
Encoders = tuple[Output, Output]
"""Face analysis and CLIP vision; or what they make of images."""


class WorkflowBuilder:
    """Adds groups of nodes to a workflow: references, features, LoRA, image."""

    def __init__(self, graph: WorkflowGraph, sampling: SamplingConfig) -> None:
        """Add to a graph.

        Args:
            graph: A workflow, or a subgraph.
            sampling: What the DiffLoRA checkpoint recommends.
        """
        self.graph, self.sampling = graph, sampling

    def load_image(self, title: str, name: str) -> Output:
        """Load an image that the user changes."""
        return self.graph.add_yours("LoadImage", title, image=name)[0]

    def batch(self, images: Sequence[Output]) -> Output:
        """Make images one batch."""
        batch = images[0]
        for number, image in enumerate(images[1:], start=2):
            batch = self.graph.add("ImageBatch", f"Pictures 1 to {number}", image1=batch, image2=image)[0]
        return batch

    def load_encoders(self, **model: Output) -> Encoders:
        """Load the two frozen encoders: face analysis, CLIP vision; the face models are those that `model` needs."""
        pack = self.graph.add(
            "DiffLoRALoadFaceAnalysis", "Load Face Analysis", model_pack="auto", provider="CPU", **model
        )
        vision = self.graph.add("DiffLoRALoadCLIPVision", "Load CLIP Vision", clip_name="miniature")
        return pack[0], vision[0]

    def encode(self, images: Output, encoders: Encoders, who: str = "") -> Encoders:
        """Encode images with both encoders: face features, image features."""
        pack, vision = encoders
        face, _, features = self.graph.add(
            "DiffLoRAEncodeFace", f"Encode Face{who}", image=images, face_analysis=pack, clip_vision=vision
        )
        return face, features

    def load_difflora(self) -> Output:
        """Load the DiffLoRA checkpoint."""
        return self.graph.add("DiffLoRALoad", "Load DiffLoRA", checkpoint="miniature.safetensors")[0]

    def mix(self, model: Output, features: Encoders, who: str = "") -> Output:
        """Mix face and image features."""
        face, image = features
        mixed = self.graph.add(
            "DiffLoRAMixFeatures", f"Mix Features{who}", model=model, face=face, clip_vision_output=image
        )
        return mixed[0]

    def sample_latent(self, model: Output, mixed: Output, who: str = "") -> Output:
        """Sample the latent of a LoRA, with the settings that the checkpoint recommends."""
        settings = {"settings": "recommended", **asdict(self.sampling)}
        return self.graph.add("DiffLoRASample", f"Sample LoRA{who}", model=model, features=mixed, seed=1, **settings)[0]

    def decode(self, model: Output, latent: Output) -> Output:
        """Decode a latent into a LoRA."""
        return self.graph.add("DiffLoRADecode", "Decode LoRA", model=model, latent=latent)[0]

    def encode_person(self, images: Output) -> Encoders:
        """Add the encoders, and their features of images."""
        return self.encode(images, self.load_encoders())

    def make_lora(self, features: Encoders) -> Output:
        """Add everything from features to a LoRA."""
        model = self.load_difflora()
        return self.decode(model, self.sample_latent(model, self.mix(model, features)))

    def save_lora(self, lora: Output, name: str, who: str = "") -> Output:
        """Save a LoRA where Load LoRA lists it; the output is the file's name."""
        return self.graph.add(
            "DiffLoRASave", f"Save LoRA{who}", lora=lora, filename_prefix=name, folder="output/loras"
        )[0]

    def load_base_model(self) -> tuple[Output, ...]:
        """Load the base model: MODEL, CLIP, VAE."""
        return self.graph.add("CheckpointLoaderSimple", "Load Checkpoint", ckpt_name="miniature_sdxl.safetensors")

    def apply(self, base: tuple[Output, ...], lora: Output, strength: float = 1.0) -> Output:
        """Apply a LoRA to the base model, on the positive prompt's side: more likeness at the same guidance."""
        inputs = {"model": base[0], "lora": lora, "strength": strength, "side": SIDE_OF_GUIDANCE}
        return self.graph.add_yours("DiffLoRAApply", "Your strength", **inputs)[0]

    def hook(self, file: Output, title: str) -> Output:
        """Make a LoRA's file a hook, which acts where and when a prompt does."""
        return self.graph.add_yours("CreateHookLoraModelOnly", title, lora_name=file, strength_model=1.0)[0]

    def keyframes(self, start: float, end: float) -> Output:
        """Let hooks act from one share of the sampling to another, both of which the user changes."""
        frame = self.graph.add("CreateHookKeyframe", "Before the start", strength_mult=0.0, start_percent=0.0)[0]
        for title, strength, share in (("Your start", 1.0, start), ("Your end", 0.0, end)):
            frame = self.graph.add_yours(
                "CreateHookKeyframe", title, strength_mult=strength, start_percent=share, prev_hook_kf=frame
            )[0]
        return frame

    def halves(self, width: int, height: int) -> tuple[Output, Output]:
        """Make masks of the left and the right half of an image."""
        whole = self.graph.add("SolidMask", "Whole image", value=0.0, width=width, height=height)[0]
        half = self.graph.add("SolidMask", "Half image", value=1.0, width=width // 2, height=height)[0]
        left = self.graph.add("MaskComposite", "Left", destination=whole, source=half, x=0, y=0, operation="add")[0]
        return left, self.graph.add("InvertMask", "Right", mask=left)[0]

    def find_edges(self, image: Output) -> Output:
        """Find the edges of an image, and show them."""
        lines = self.graph.add("Canny", "Canny", image=image, low_threshold=0.1, high_threshold=0.2)
        self.graph.add("PreviewImage", "Edges", images=lines[0])
        return lines[0]

    def prompts(self, clip: Output, prompt: str = PROMPT) -> tuple[Output, Output]:
        """Encode the prompt, which the user changes, and an empty negative prompt."""
        positive = self.graph.add_yours("CLIPTextEncode", "Your prompt", text=prompt, clip=clip)
        negative = self.graph.add("CLIPTextEncode", "Negative prompt", text="", clip=clip)
        return positive[0], negative[0]

    def control(self, prompts: tuple[Output, Output], net: Output, edges: Output, vae: Output) -> tuple[Output, Output]:
        """Let a ControlNet act on the prompts."""
        positive, negative = self.graph.add(
            "ControlNetApplyAdvanced",
            "Apply ControlNet",
            positive=prompts[0],
            negative=prompts[1],
            control_net=net,
            image=edges,
            vae=vae,
            **CONTROL,
        )
        return positive, negative

    def sample_image(self, model: Output, prompts: tuple[Output, Output], width: int = SIDE) -> Output:
        """Sample the latent of an image."""
        empty = self.graph.add("EmptyLatentImage", "Empty Latent Image", width=width, height=SIDE)
        return self.graph.add(
            "KSampler",
            "KSampler",
            model=model,
            positive=prompts[0],
            negative=prompts[1],
            latent_image=empty[0],
            seed=1,
            steps=16,
            cfg=2.5,
            sampler_name="dpmpp_2m_sde",
            scheduler="sgm_uniform",
        )[0]

    def decode_image(self, samples: Output, vae: Output) -> tuple[Output, Output]:
        """Decode the latent of an image; return the image, and the same larger."""
        image = self.graph.add("VAEDecode", "VAE Decode", samples=samples, vae=vae)[0]
        larger = self.graph.add(
            "ImageScaleBy", "Enlarge", image=image, upscale_method="lanczos", scale_by=float(ENLARGED)
        )
        return image, larger[0]

    def show_image(self, samples: Output, vae: Output, name: str, beside: bool = False) -> None:
        """Add a group: save the image, and show it large, below or `beside` the other nodes of the group."""
        self.graph.group("Result")
        image, larger = self.decode_image(samples, vae)
        if beside:
            self.graph.add("SaveImage", "Save Image", images=image, filename_prefix=name)
            self.graph.column()
        self.graph.add("PreviewImage", "Result", images=larger)
        self.graph.resize(*RESULT)
        if not beside:
            self.graph.add("SaveImage", "Save Image", images=image, filename_prefix=name)

    def show_grid(self, samples: Output, vae: Output, labels: Output, name: str) -> None:
        """Add a group: show images side by side, and save that."""
        self.graph.group("Result")
        _, larger = self.decode_image(samples, vae)
        grid = self.graph.add("DiffLoRAImageGrid", "Image Grid with Labels", images=larger, labels=labels, columns=3)
        self.graph.add("SaveImage", "Save Image", images=grid[0], filename_prefix=name)
        self.graph.resize(*WIDE_RESULT)
        self.graph.to_top()  # below, the page's minimap would cover it

    def generate_image(self, base: tuple[Output, ...], model: Output) -> Output:
        """Add a group: sample the latent of an image with a model that has a LoRA, and with the prompt."""
        self.graph.group("Your prompt")
        return self.sample_image(model, self.prompts(base[1]))
