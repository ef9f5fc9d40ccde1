"""What goes in: procedural objects, mesh files, the renderers, and WebDataset shards (section 3.2)."""
