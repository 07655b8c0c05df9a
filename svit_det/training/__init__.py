"""Parts of a training beside the model, in torch only."""
