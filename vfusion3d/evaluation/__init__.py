"""How well a model does, and how the project shows it: metrics, the paper's 3D protocol, baselines, tables and figures.

`metrics` compares images; `protocol` is the paper's test on unseen objects (section 4.3); `baselines` keep it honest;
`tables` sets our numbers beside the paper's (`paper_numbers.yaml`); `figures` is the one style of every picture.
Nothing here needs a renderer of meshes: evaluation reads shards.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
