"""How the bundled miniatures of the foundation models were trained, and what they can do."""
