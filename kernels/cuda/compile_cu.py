#!/usr/bin/env python3
"""Compiles one .cu file with nvcc for every architecture and holds its kernels to their budget.

ptxas reports registers, stack frame and spills of each kernel on each architecture; budget.txt
beside the source says how much each may use. A kernel above its budget or without one, and a budget
without a kernel fail the build, and the object is removed. The numbers stay in
OBJECT.resources.txt.
"""

import argparse
import os
import re
import subprocess
import sys

# Real code for Ampere, its consumer cards (Ada runs that too), Hopper with wgmma and consumer
# Blackwell; PTX for whatever comes later.
ARCHITECTURES = ["80", "86", "90a", "120"]
PTX = "80"


def parse_report(text):
    """[(kernel, architecture, registers, bytes of stack or spills)] of a ptxas -v report."""
    rows, entry, stack = [], None, 0
    for line in text.splitlines():
        if match := re.search(r"Compiling entry function '(\S+)' for 'sm_(\w+)'", line):
            entry = match.groups()
        elif match := re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line
        ):
            stack = max(map(int, match.groups()))
        elif (match := re.search(r"Used (\d+) registers", line)) and entry is not None:
            rows.append((*entry, int(match.group(1)), stack))
            entry = None
    return rows


def short_names(mangled):
    """{mangled: name with template arguments, without return type, namespaces and parameters}."""
    text = subprocess.run(
        ["c++filt"], input="\n".join(mangled), capture_output=True, text=True, check=True
    ).stdout
    names = {}
    for symbol, name in zip(mangled, text.splitlines()):
        name = name.replace("(anonymous namespace)::", "")
        # Types inside <> lose their namespaces too, which keeps the budget readable.
        name = re.sub(r"\b\w+::", "", name.removeprefix("void "))
        names[symbol] = re.sub(r"\(.*", "", name).replace(" ", "")
    return names


def read_budget(path, source):
    """{(kernel, architecture or *): (registers, stack)} of the lines for `source`."""
    budget = {}
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            fields = line.split("#")[0].split()
            if not fields:
                continue
            if len(fields) != 5:
                sys.exit(f"{path}:{number}: want: source kernel architecture registers stack")
            if fields[0] == source:
                budget[fields[1], fields[2]] = (int(fields[3]), int(fields[4]))
    return budget


def check(rows, budget, source):
    """Messages about kernels that do not fit; rows as parse_report gives them, names short."""
    errors = []
    most = {}  # of kernels without a budget
    for kernel, arch, registers, stack in rows:
        allowed = budget.get((kernel, arch), budget.get((kernel, "*")))
        if allowed is None:
            most[kernel] = tuple(map(max, most.get(kernel, (0, 0)), (registers, stack)))
        elif registers > allowed[0] or stack > allowed[1]:
            errors.append(
                f"{kernel} on sm_{arch} uses {registers} registers and {stack} bytes of stack; "
                f"its budget is {allowed[0]} and {allowed[1]}"
            )
    errors += [
        f"{kernel} has no budget; its line: {source} {kernel} * {registers} {stack}"
        for kernel, (registers, stack) in most.items()
    ]
    known = {(row[0], arch) for row in rows for arch in (row[1], "*")}
    errors += [
        f"the budget has {kernel} for architecture {arch}, the source has not"
        for kernel, arch in budget
        if (kernel, arch) not in known
    ]
    return errors


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nvcc", required=True)
    parser.add_argument("--launcher", default="", help="such as ccache")
    parser.add_argument("--root", required=True, help="what includes start from")
    parser.add_argument("--budget", required=True)
    parser.add_argument("--object", required=True)
    parser.add_argument("--depfile", required=True)
    parser.add_argument("--architectures", default=",".join(ARCHITECTURES), metavar="80,90a")
    parser.add_argument("source")
    args = parser.parse_args()
    architectures = args.architectures.split(",")

    command = [args.launcher] if args.launcher else []
    command += [args.nvcc, "-std=c++20", "-O3", "-lineinfo", "--expt-relaxed-constexpr"]
    command += ["-Werror", "all-warnings", "-Xptxas", "-v"]
    command += ["-Xcompiler", "-fPIC,-Wall,-Wextra,-Wno-missing-field-initializers,-Werror"]
    for arch in architectures:
        command += ["-gencode", f"arch=compute_{arch},code=sm_{arch}"]
    command += ["-gencode", f"arch=compute_{PTX},code=compute_{PTX}", "-I", args.root]
    command += ["-MD", "-MT", args.object, "-MF", args.depfile]
    command += ["-x", "cu", "-c", args.source, "-o", args.object]
    done = subprocess.run(command, capture_output=True, text=True)
    report = done.stdout + done.stderr
    if done.returncode != 0:
        sys.stderr.write(report)
        return done.returncode

    rows = parse_report(report)
    names = short_names(sorted({row[0] for row in rows}))
    rows = sorted((names[row[0]], *row[1:]) for row in rows)
    with open(args.object + ".resources.txt", "w", encoding="utf-8") as out:
        out.write("kernel architecture registers stack\n")
        out.writelines(" ".join(map(str, row)) + "\n" for row in rows)
    file_name = os.path.basename(args.source)
    budget = {
        (kernel, arch): most
        for (kernel, arch), most in read_budget(args.budget, file_name).items()
        if arch in ["*", *architectures]
    }
    errors = check(rows, budget, file_name)
    for error in errors:
        print(f"{args.source}: {error}", file=sys.stderr)
    if errors:
        print(f"{args.source}: the budgets are in {args.budget}", file=sys.stderr)
        os.remove(args.object)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
