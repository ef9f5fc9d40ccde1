from . import results, run
from .data import aesthetic_scores
from .results import Claim, all_scores, differences, in_words, made_of, methods_of, table_rows, verdict, verdicts
from .scaling import errors_of, fit_power_law, scaling_figure
from .variants import load_experiments, training_recipe
