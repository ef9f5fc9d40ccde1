"""The miniature world: procedural, promptable objects, in place of Objaverse and of the web."""
