"""What is made once per data set: the miniature's own networks, latents, encoder features and the critic."""
