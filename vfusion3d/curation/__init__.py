"""What is done with synthetic videos before anything learns from them (section 3.2): filter, elevations, masks."""
