from .answers import (
    OURS,
    RATERS,
    TASKS,
    comparisons,
    load_items,
    majority,
    plot_win_rates,
    read_answers,
    read_video,
    win_rates,
)
