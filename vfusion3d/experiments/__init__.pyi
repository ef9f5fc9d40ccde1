from . import plan, results, run
from .data import aesthetic_scores
from .results import BEFORE, CLAIMED, MARGINS, Claim, all_scores, in_words, made_of, methods_of, table_rows, verdicts
from .scaling import errors_of, fit_power_law, scaling_figure
from .variants import load_experiments
