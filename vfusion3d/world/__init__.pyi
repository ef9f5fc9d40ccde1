from .captions import meaning
from .objects import COMMON, UNCOMMON, build_mesh, describe, make_object, sample_object
from .sources import ProceduralObjects, RandomPrimitives
from .unseen import UNSEEN_SEED, UnseenObjects, eval_prompts
from .web_captions import WEB_CAPTIONS, labelled_captions
from .web_world import render_web
