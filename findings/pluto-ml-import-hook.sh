#!/bin/sh
# pluto-ml installs a .pth file that imports the client in every start of the interpreter, whatever is run.
. "$(dirname "$0")/setup.sh"
environment pluto-ml==0.0.29
echo 'expected:  python -c pass imports nothing of pluto-ml'

python -c 'import sys; print(*sorted(name for name in sys.modules if name == "pluto" or name.startswith("pluto.")))' >out
grep -q pluto out || changed 'nothing of it is imported'
python -X importtime -c pass 2>times
total=$(awk -F'|' '/ site$/ {print int($2 / 1000)}' times)
seen "$(wc -w <out) modules of it are imported before anything is run; site takes $total ms"
