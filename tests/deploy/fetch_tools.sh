#!/usr/bin/env bash
# Fetches the tools of tests/deploy that apt-get install would not do for; called by ./setup test.
#
#   build/tools/promtool   out of the package `prometheus`: installing that would start a daemon
#   build/tools/venv       the Python tools of requirements.txt, away from the distribution's
#
# What can not be fetched is named here; the tests that need it are skipped and say so.
set -euo pipefail
here="$(dirname "$(readlink -f "$0")")"
mkdir -p "$here/../../build/tools"
cd "$here/../../build/tools"

scratch=$(mktemp -d ./fetch.XXXXXX)
trap 'rm -rf "$scratch"' EXIT

# Joined by &&: `set -e` does not hold inside the condition that calls them.
fetch_promtool() {
  (cd "$scratch" && apt-get download -qq prometheus) &&
    dpkg -x "$scratch"/prometheus_*.deb "$scratch/prometheus" &&
    "$scratch/prometheus/usr/bin/promtool" --version &&
    mv "$scratch/prometheus/usr/bin/promtool" promtool
}

fetch_venv() {
  rm -rf venv &&
    /usr/bin/python3 -m venv venv &&
    venv/bin/pip install --quiet --disable-pip-version-check -r "$here/requirements.txt" &&
    cp "$here/requirements.txt" venv/requirements.txt
}

fetch() {  # name, function
  if "$2" >"$1.log" 2>&1; then
    echo "$1: fetched"
  else
    echo "setup: no $1, the tests that need it will be skipped; see build/tools/$1.log" >&2
  fi
}

if [ -x promtool ]; then echo "promtool: there"; else fetch promtool fetch_promtool; fi
if cmp -s "$here/requirements.txt" venv/requirements.txt; then
  echo "venv: there"
else
  fetch venv fetch_venv
fi
