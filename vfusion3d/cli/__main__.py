"""`python -m vfusion3d.cli`, for launchers that take a module: torchrun, Snakemake."""

import sys

from vfusion3d.cli.main import main

sys.exit(main())
