"""The budget check of kernels/cuda/compile_cu.py, against a compiler that only prints a report."""

import pathlib
import subprocess
import sys
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "kernels/cuda/compile_cu.py"

# As ptxas prints it: tandem::kernels::cuda::Scale<2>(float*) on two architectures.
REPORT = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN6tandem7kernels4cuda5ScaleILi2EEEvPf' for 'sm_80'
ptxas info    : Function properties for _ZN6tandem7kernels4cuda5ScaleILi2EEEvPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 25 registers, used 1 barriers, 32 bytes smem, 384 bytes cmem[0]
ptxas info    : Compiling entry function '_ZN6tandem7kernels4cuda5ScaleILi2EEEvPf' for 'sm_90a'
ptxas info    : Function properties for _ZN6tandem7kernels4cuda5ScaleILi2EEEvPf
    8 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 32 bytes smem
"""


class CompileCuTest(unittest.TestCase):
    def compile(self, budget, compiler_status=0):
        """(exit status, messages, whether the object is there)"""
        with tempfile.TemporaryDirectory() as folder:
            at = pathlib.Path(folder)
            compiler = at / "nvcc"
            compiler.write_text(
                f"#!/bin/sh\nwhile [ \"$1\" != -o ]; do shift; done\n: >\"$2\"\n"
                f"cat >&2 <<'TEXT'\n{REPORT}TEXT\nexit {compiler_status}\n"
            )
            compiler.chmod(0o755)
            (at / "budget.txt").write_text(budget)
            done = subprocess.run(
                [sys.executable, SCRIPT, "--nvcc", compiler, "--root", at]
                + ["--budget", at / "budget.txt", "--object", at / "a.o"]
                + ["--depfile", at / "a.d", at / "scale.cu"],
                capture_output=True,
                text=True,
            )
            return done.returncode, done.stderr, (at / "a.o").exists()

    def test_kernels_within_their_budget_compile(self):
        status, messages, there = self.compile(
            "# comment\nscale.cu Scale<2> * 32 0\nscale.cu Scale<2> 90a 40 12\nother.cu Sum * 1 0\n"
        )
        self.assertEqual((status, messages, there), (0, "", True))

    def test_too_many_registers_fail_the_build_and_name_the_kernel(self):
        status, messages, there = self.compile("scale.cu Scale<2> * 39 12\n")
        self.assertEqual((status, there), (1, False))
        self.assertIn("Scale<2> on sm_90a uses 40 registers", messages)
        self.assertNotIn("sm_80", messages)

    def test_a_spill_fails_the_build(self):
        status, messages, there = self.compile("scale.cu Scale<2> * 40 8\n")
        self.assertEqual((status, there), (1, False))
        self.assertIn("12 bytes of stack", messages)

    def test_a_kernel_without_a_budget_fails_the_build_and_tells_its_line(self):
        status, messages, there = self.compile("")
        self.assertEqual((status, there), (1, False))
        self.assertIn("scale.cu Scale<2> * 40 12", messages)

    def test_a_budget_without_a_kernel_fails_the_build(self):
        status, messages, _ = self.compile("scale.cu Scale<2> * 40 12\nscale.cu Gone * 8 0\n")
        self.assertEqual(status, 1)
        self.assertIn("the budget has Gone", messages)

    def test_a_compiler_that_fails_says_why(self):
        status, messages, _ = self.compile("scale.cu Scale<2> * 40 12\n", compiler_status=3)
        self.assertEqual(status, 3)
        self.assertIn("ptxas info", messages)


if __name__ == "__main__":
    unittest.main()
