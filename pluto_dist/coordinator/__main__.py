"""`python -m pluto_dist.coordinator`: the coordinator; `launch` starts it, or a service manager."""

import sys

from pluto_dist.coordinator.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
