"""Early exits of decoder-only language models."""
