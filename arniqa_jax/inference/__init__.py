"""From images to features, for evaluation and for scoring."""
