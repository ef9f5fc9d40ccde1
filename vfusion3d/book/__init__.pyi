from . import drawings
from .notebook import Notebook, begin
