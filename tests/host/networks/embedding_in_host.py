"""Run by a test in its own process, with ComfyUI on its path: text conditions with a file of embeddings.

    python embedding_in_host.py HOST CHECKPOINT FOLDER OUTPUTS PROMPT

FOLDER is ComfyUI's folder of embeddings, PROMPT names one of its files as `embedding:NAME`.
"""

import sys
from pathlib import Path

HOST, CHECKPOINT, FOLDER, OUTPUTS, PROMPT = sys.argv[1:]
sys.argv = sys.argv[:1]
sys.path[:0] = [HOST, str(Path(__file__).parents[3] / "miniature" / "comfyui")]

from comfy.cli_args import args  # noqa: E402

args.cpu = args.fp32_unet = args.fp32_vae = args.fp32_text_enc = args.use_pytorch_cross_attention = True

import comfy.sd  # noqa: E402
import torch  # noqa: E402
from companion.model import register  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

register()
with torch.inference_mode():
    _, clip, _, _ = comfy.sd.load_checkpoint_guess_config(CHECKPOINT, output_vae=False, embedding_directory=[FOLDER])
    context, pooled = clip.encode_from_tokens(clip.tokenize(PROMPT), return_pooled=True)
    save_file({"context": context.contiguous().clone(), "pooled": pooled.contiguous().clone()}, OUTPUTS)
