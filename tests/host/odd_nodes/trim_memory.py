"""A node that gives back to the operating system what the process has freed."""

import ctypes
import gc
import sys

from comfy_api.latest import io, ui


class TrimMemory(io.ComfyNode):
    """Collect garbage and return the free memory that the C library keeps for later; glibc alone has a call for it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs and outputs."""
        return io.Schema(
            node_id="DiffLoRATestTrimMemory",
            category="DiffLoRA/tests",
            inputs=[io.Int.Input("call", tooltip="Another number each time, so that no result is cached.")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, call: int) -> io.NodeOutput:
        """Do it."""
        gc.collect()
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
        if trim is not None:
            trim(0)
        return io.NodeOutput(ui=ui.PreviewText("not with this C library" if trim is None else "trimmed"))
