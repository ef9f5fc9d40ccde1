"""The roles that pretrained models play in the paper. Code asks for a role, never for a model by name."""
