"""Diffusion processes, their samplers, and guidance."""
