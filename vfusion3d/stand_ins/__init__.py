"""Who plays the people of the paper offline: the judge of videos, who knows the truth, and the raters."""
