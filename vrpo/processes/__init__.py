"""How images are noised, what is predicted of them, and how they are sampled."""
