"""What `torch.optim` lacks."""
