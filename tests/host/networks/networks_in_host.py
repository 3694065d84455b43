"""Run by a test in its own process, with ComfyUI on its path: evaluate a base checkpoint's networks there.

    python networks_in_host.py HOST CHECKPOINT INPUTS OUTPUTS [LORA]

INPUTS and OUTPUTS are safetensors files; `test_same_networks.py` shows their contents.
"""

import sys
from pathlib import Path

HOST, CHECKPOINT, INPUTS, OUTPUTS, *LORA = sys.argv[1:]
sys.argv = sys.argv[:1]
sys.path[:0] = [HOST, str(Path(__file__).parents[3] / "miniature" / "comfyui")]

from comfy.cli_args import args  # noqa: E402

args.cpu = args.fp32_unet = args.fp32_vae = args.fp32_text_enc = args.use_pytorch_cross_attention = True

import comfy.lora  # noqa: E402
import comfy.model_management  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.utils  # noqa: E402
import torch  # noqa: E402
from companion.model import register  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402


@torch.inference_mode()
def main() -> None:
    """Load the checkpoint as CheckpointLoaderSimple does and save the outputs of its networks."""
    register()
    inputs = load_file(INPUTS)
    model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(CHECKPOINT)
    outputs = {}
    if LORA:
        lora = comfy.utils.load_torch_file(LORA[0])
        keys = comfy.lora.model_lora_keys_unet(model.model, {})
        patches = comfy.lora.load_lora(lora, keys)
        outputs["patched"] = torch.tensor(len(model.add_patches(patches, 1.0)))
    comfy.model_management.load_model_gpu(model)
    network = model.model
    vector = network.encode_adm(device="cpu", pooled_output=inputs["pooled"], width=128, height=128, crop_w=0, crop_h=0)
    outputs["unet"] = network.diffusion_model(inputs["x"], inputs["timestep"], inputs["context"], y=vector)
    outputs["sigmas"] = network.model_sampling.sigmas
    context, pooled = clip.encode_from_tokens(clip.tokenize("a portrait of a person, smiling"), return_pooled=True)
    tokens = clip.tokenize("a portrait of a person, smiling")
    outputs |= {"context": context, "pooled": pooled}
    outputs |= {f"tokens_{name}": torch.tensor([pair[0] for pair in tokens[name][0]]) for name in "lg"}
    outputs["image"] = vae.decode(inputs["latent"])
    outputs["encoded"] = vae.encode(outputs["image"])
    save_file({name: tensor.contiguous().clone() for name, tensor in outputs.items()}, OUTPUTS)


main()
