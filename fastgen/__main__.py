"""``python -m fastgen``: the command line."""

from .cli import main
from .training.distributed import leave

leave(main())
