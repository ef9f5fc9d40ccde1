"""The paper's ablations and trends as variants of one pipeline (sections 4.3 and 4.4; notebooks 11 to 15).

A variant is a few lines of `variants.yaml`; `run` makes what it needs, shares what others made, trains and evaluates;
`results` reads the scores for the tables; `scaling` fits the power law of Figure 7.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["results", "run"],
    submod_attrs={
        "data": ["aesthetic_scores"],
        "results": [
            *("Claim", "all_scores", "differences", "in_words", "made_of"),
            *("methods_of", "table_rows", "verdict", "verdicts"),
        ],
        "scaling": ["errors_of", "fit_power_law", "scaling_figure"],
        "variants": ["load_experiments", "training_recipe"],
    },
)
