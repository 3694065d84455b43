"""The sockets that the pack's nodes should have."""

NODES = {
    "DiffLoRALoad": (["DIFFLORA_MODEL"], set()),
    "DiffLoRALoadFaceAnalysis": (["INSIGHTFACE"], {"DIFFLORA_MODEL"}),
    "DiffLoRALoadCLIPVision": (["CLIP_VISION"], set()),
    "DiffLoRALoadFolder": (["IMAGE"], set()),
    "DiffLoRAEncodeFace": (
        ["DIFFLORA_FACE", "IMAGE", "CLIP_VISION_OUTPUT"],
        {"IMAGE", "INSIGHTFACE,FACEANALYSIS", "CLIP_VISION"},
    ),
    "DiffLoRAMixFeatures": (["DIFFLORA_FEATURES"], {"DIFFLORA_MODEL", "DIFFLORA_FACE", "CLIP_VISION_OUTPUT"}),
    "DiffLoRASample": (["DIFFLORA_LATENT"], {"DIFFLORA_MODEL", "DIFFLORA_FEATURES"}),
    "DiffLoRADecode": (["LORA_MODEL"], {"DIFFLORA_MODEL", "DIFFLORA_LATENT"}),
    "DiffLoRALoadLoRA": (["LORA_MODEL"], set()),
    "DiffLoRAEncode": (["DIFFLORA_LATENT"], {"DIFFLORA_MODEL", "LORA_MODEL"}),
    "DiffLoRABlend": (["DIFFLORA_LATENT"], {"DIFFLORA_LATENT"}),
    "DiffLoRAApply": (["MODEL"], {"MODEL", "LORA_MODEL"}),
    "DiffLoRAApplyStrengths": (["MODEL", "STRING"], {"MODEL", "LORA_MODEL"}),
    "DiffLoRAImageGrid": (["IMAGE"], {"IMAGE"}),
    "DiffLoRARefine": (["LORA_MODEL", "IMAGE"], {"MODEL", "CLIP", "VAE", "LORA_MODEL", "IMAGE"}),
    "DiffLoRASaveIdentity": ([], {"DIFFLORA_LATENT"}),
    "DiffLoRALoadIdentity": (["DIFFLORA_LATENT"], set()),
    "DiffLoRASave": (["COMBO"], {"LORA_MODEL"}),
    "DiffLoRAFaceSimilarity": (["FLOAT", "STRING", "IMAGE"], {"IMAGE", "INSIGHTFACE,FACEANALYSIS"}),
    "DiffLoRAPickBest": (
        ["LORA_MODEL", "IMAGE", "FLOAT", "STRING"],
        {"LORA_MODEL", "IMAGE", "INSIGHTFACE,FACEANALYSIS"},
    ),
}
"""Every node: its outputs, and the sockets among its inputs."""
