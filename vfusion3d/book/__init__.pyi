from .notebook import Notebook, begin
