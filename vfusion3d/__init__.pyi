from .model.pipeline import ImageTo3DPipeline
from .model.vfusion3d import VFusion3D
