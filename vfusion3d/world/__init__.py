"""The miniature world: procedural, promptable objects, in place of Objaverse and of the web."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "captions": ["meaning"],
        "objects": ["COMMON", "UNCOMMON", "build_mesh", "describe", "make_object", "sample_object"],
        "sources": ["ProceduralObjects", "RandomPrimitives"],
        "unseen": ["UNSEEN_SEED", "UnseenObjects", "eval_prompts"],
        "web_captions": ["WEB_CAPTIONS", "labelled_captions"],
        "web_world": ["render_web"],
    },
)
