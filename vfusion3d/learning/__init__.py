"""The one training loop, its optimizer and its arithmetic."""
