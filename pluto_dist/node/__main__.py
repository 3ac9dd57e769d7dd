"""`python -m pluto_dist.node`: the coordinator process; started by `launch`, or by a service manager."""

import sys

from pluto_dist.node.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
