"""Result paths, jobs and resolved configs that follow from a config."""
