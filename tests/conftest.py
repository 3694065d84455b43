"""Shared by all tests: torch on one thread, so that results and times do not depend on the machine's load."""

import torch

torch.set_num_threads(1)
