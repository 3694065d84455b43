"""Measuring: likeness and prompt fidelity."""
