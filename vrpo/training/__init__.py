"""Training of one run up to a milestone, exactly resumable at any moment."""
