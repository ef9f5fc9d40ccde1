"""The user study of Figure 5: the answers and the page that asks."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "answers": [
            *("OURS", "RATERS", "TASKS", "comparisons", "load_items", "majority"),
            *("plot_win_rates", "read_answers", "read_video", "win_rates"),
        ]
    },
)
