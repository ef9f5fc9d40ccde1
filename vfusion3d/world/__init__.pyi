from .captions import describe, make_object, meaning
from .catalogue import COMMON, UNCOMMON
from .objects import build_mesh, sample_object
from .sources import ProceduralObjects, RandomPrimitives, data_sets
from .unseen import UnseenObjects, eval_prompts
from .web_captions import WEB_CAPTIONS, labelled_captions
from .web_world import render_web
