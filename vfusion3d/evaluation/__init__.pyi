from . import baselines, figures, methods, showcase, tables
from .metrics import psnr
from .protocol import evaluate_3d, model_predictor
from .single_images import around, evaluate_single_images, prompt_images
