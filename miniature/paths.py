"""Where things lie: the repository, what ships with it, and the scratch folder of the build."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = ROOT / "miniature" / "weights"
"""Everything that ships, in ComfyUI's folders by kind of model."""
DIFFLORA_CHECKPOINT = WEIGHTS / "difflora" / "miniature.safetensors"
"""The shipped DiffLoRA checkpoint."""
BUILD = ROOT / "miniature" / "build"
"""Scratch of `python -m miniature build`; not tracked."""
