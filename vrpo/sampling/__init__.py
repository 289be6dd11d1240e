"""Images from milestones."""
