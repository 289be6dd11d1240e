"""Stages that run once per data set: latents, encoder features, critic, and the miniature's networks."""
