"""The paper's ablations and trends as variants of one pipeline (sections 4.3 and 4.4; notebooks 11 to 15).

A variant is a few lines of `variants.yaml`; `run` makes what it needs, shares what others made, trains and evaluates;
`results` reads the scores for the tables; `scaling` fits the power law of Figure 7.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
