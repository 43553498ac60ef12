#!/usr/bin/env python3
"""The figures of the server under load and under fault, one Markdown row per command.

  tests/e2e/load/figures.py [--build DIR] mixed [--seconds 120] [--clients 200]
                                          drain [--requests 2000]
                                          bursts [--bursts 200]
                                          killed [--kills 1000]
                                          fairness [--pairs 50]
                                          scrapes [--scrapes 1000]

Starts the servers it needs on free ports. Exit status 0 when every count is as it must be; times are
only printed. The interpreter must be the one whose grpc and protobuf the build generated code for.
"""

import argparse
import os
import pathlib
import sys

REPOSITORY = pathlib.Path(__file__).resolve().parents[3]


def main():
    parser = argparse.ArgumentParser(description="Figures under load, one Markdown row each.")
    parser.add_argument("--build", default=REPOSITORY / "build" / "release", type=pathlib.Path,
                        help="build directory of the server (default: build/release)")
    figures = parser.add_subparsers(dest="figure", required=True)
    mixed = figures.add_parser("mixed", help="every kind of call at once")
    mixed.add_argument("--seconds", type=float, default=120)
    mixed.add_argument("--clients", type=int, default=200)
    drain = figures.add_parser("drain", help="SIGTERM under load")
    drain.add_argument("--requests", type=int, default=2000)
    bursts = figures.add_parser("bursts", help="more calls at once than the queue takes")
    bursts.add_argument("--bursts", type=int, default=200)
    killed = figures.add_parser("killed", help="clients killed at any moment")
    killed.add_argument("--kills", type=int, default=1000)
    fairness = figures.add_parser("fairness", help="a tenant beside one that floods")
    fairness.add_argument("--pairs", type=int, default=50)
    scrapes = figures.add_parser("scrapes", help="/metrics while every seat is busy")
    scrapes.add_argument("--scrapes", type=int, default=1000)
    arguments = parser.parse_args()

    os.environ.setdefault("TANDEM_BINARY", str(arguments.build / "bin" / "tandem"))
    sys.path[:0] = [str(REPOSITORY / "tests" / "e2e"), str(arguments.build / "python")]
    good, row, problems = FIGURES[arguments.figure](arguments)
    print(row)
    for problem in problems[:20]:
        print("  ", problem, file=sys.stderr)
    return 0 if good else 1


# Imported late: the modules need the paths that main() sets.


def _mixed(arguments):
    import mixed_load
    result = mixed_load.run(arguments.clients, arguments.seconds)
    return (result.failures == 0 and not any(result.left) and result.exit_code == 0, result.row(),
            result.problems)


def _drain(arguments):
    import drain_load
    result = drain_load.run(arguments.requests)
    return not result.problems and result.exit_codes == {0}, result.row(), result.problems


def _bursts(arguments):
    import bursts
    result = bursts.run(arguments.bursts)
    return (not result.problems and set(result.accepted) == {bursts.LIMIT}
            and not any(result.left)), result.row(), result.problems


def _killed(arguments):
    import killed_clients
    result = killed_clients.run(arguments.kills)
    return (result.neighbour_changed == 0 and not any(result.left)
            and result.exit_code == 0), result.row(), []


def _fairness(arguments):
    import fairness
    result = fairness.run(arguments.pairs)
    return not any(result.left) and result.exit_code == 0, result.row(), []


def _scrapes(arguments):
    import scrapes
    result = scrapes.run(arguments.scrapes)
    return result.bad == 0 and result.exit_code == 0, result.row(), []


FIGURES = {"mixed": _mixed, "drain": _drain, "bursts": _bursts, "killed": _killed,
           "fairness": _fairness, "scrapes": _scrapes}

if __name__ == "__main__":
    sys.exit(main())
