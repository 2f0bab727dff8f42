"""The encoder, its projector and the contrastive loss."""
