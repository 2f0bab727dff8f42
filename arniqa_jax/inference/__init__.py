"""From images to features; evaluation and scoring share it."""
