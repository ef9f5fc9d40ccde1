"""How the bundled miniatures are trained, on the web world alone; `notebooks/A1` drives and shows it."""
