"""The recipe of section 3.3: schedule, supervision views, losses, and VFusion3D's training."""
