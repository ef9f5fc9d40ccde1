"""The data engine (section 3.2): prompts, the fine-tuned video model, and the videos that it makes."""
