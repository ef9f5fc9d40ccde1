"""The data engine: prompts, the fine-tuned video model, and the multi-view videos it generates (section 3.2)."""
