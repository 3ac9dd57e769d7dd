"""`python -m pluto_dist.coordinator`: the coordinator; `launch` starts it, or a service manager."""

import gc
import sys

gc.disable()  # what is loaded stays; to look for garbage in it meanwhile takes a tenth of the start
from pluto_dist.coordinator.main import main  # noqa: E402

gc.freeze()
gc.enable()

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
