"""tools/gpu_check with programs that only pretend to test a device."""

import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "tools/gpu_check"

# A GoogleTest program that ends with `status`; its report names one passed and one failed test.
TEST = """#!/bin/sh
for a in "$@"; do case $a in --gtest_output=json:*) file=${{a#--gtest_output=json:}};; esac; done
cat > "$file" <<'REPORT'
{{"testsuites": [{{"testsuite": [
  {{"classname": "A", "name": "b", "result": "COMPLETED"}},
  {{"classname": "A", "name": "c", "result": "COMPLETED", "failures": [{{}}]}},
  {{"classname": "A", "name": "d", "result": "SKIPPED"}}]}}]}}
REPORT
echo said by the test
exit {status}
"""


class GpuCheckTest(unittest.TestCase):
    def check(self, programs, *arguments):
        """(exit status, output, report or None, page or None) with {name: text} as programs."""
        with tempfile.TemporaryDirectory() as folder:
            at = pathlib.Path(folder)
            (at / "programs").mkdir()
            for name, text in programs.items():
                (at / "programs" / name).write_text(text)
                (at / "programs" / name).chmod(0o644 if name.endswith(".small") else 0o755)
            done = subprocess.run(
                [sys.executable, SCRIPT, at / "programs", "--out", at / "out"]
                + ["--sanitizer", "none", *arguments],
                capture_output=True,
                text=True,
                timeout=60,
            )
            files = [at / "out/gpu_check.json", at / "out/gpu_check.md"]
            texts = [path.read_text() if path.exists() else None for path in files]
        report = json.loads(texts[0]) if texts[0] else None
        return done.returncode, done.stdout + done.stderr, report, texts[1]

    def test_help_explains_itself(self):
        done = subprocess.run([sys.executable, SCRIPT, "--help"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0)
        for word in ["cmake --preset gpu-check", "--minutes", "Exit status", "77"]:
            self.assertIn(word, done.stdout)

    def test_programs_that_pass_are_a_pass_with_their_tables(self):
        bench = "#!/bin/sh\necho '| shape | us |'\n"
        status, _, report, page = self.check(
            {"kernel_test": TEST.format(status=0), "kernel_bench": bench}
        )
        self.assertEqual(status, 0)
        self.assertEqual(report["result"], "passed")
        self.assertEqual([step["step"] for step in report["steps"]], ["kernel_test", "kernel_bench"])
        self.assertEqual(report["steps"][0]["cases"], {"passed": 1, "skipped": 1, "failed": ["A.c"]})
        self.assertIn("| shape | us |", page)
        self.assertIn("compute-sanitizer was left out", page)

    def test_a_failed_test_fails_the_check_and_is_shown(self):
        status, _, report, page = self.check({"kernel_test": TEST.format(status=1)})
        self.assertEqual(status, 1)
        self.assertEqual(report["steps"][0]["outcome"], "failed")
        self.assertIn("said by the test", page)

    def test_a_machine_without_a_device_is_told_and_nothing_else_runs(self):
        status, _, report, page = self.check(
            {"kernel_test": TEST.format(status=77), "kernel_bench": "#!/bin/sh\nexit 0\n"}
        )
        self.assertEqual(status, 77)
        self.assertEqual(report["result"], "no usable device")
        self.assertEqual(len(report["steps"]), 1)
        self.assertIn("said by the test", page)

    def test_what_takes_too_long_is_ended(self):
        status, _, report, _ = self.check(
            {"a_test": "#!/bin/sh\nsleep 50\n", "b_test": TEST.format(status=0)},
            "--minutes",
            "0.02",
        )
        self.assertEqual(status, 1)
        self.assertEqual([step["outcome"] for step in report["steps"]], ["out of time", "left out"])

    def test_the_sanitizer_runs_small_shapes(self):
        with tempfile.TemporaryDirectory() as folder:
            sanitizer = pathlib.Path(folder) / "compute-sanitizer"
            sanitizer.write_text('#!/bin/sh\necho "$@"\n')
            sanitizer.chmod(0o755)
            programs = {"kernel_test": TEST.format(status=0), "kernel_test.small": "-Large*\n"}
            status, _, report, _ = self.check(programs, "--sanitizer", str(sanitizer))
        self.assertEqual(status, 0)
        self.assertEqual(
            [step["step"] for step in report["steps"]],
            ["kernel_test", "kernel_test under memcheck", "kernel_test under racecheck"],
        )
        self.assertIn("--gtest_filter=-Large*", report["steps"][1]["output"])

    def test_a_folder_without_programs_is_wrong_use(self):
        status, output, report, _ = self.check({})
        self.assertEqual(status, 2)
        self.assertIn("no *_test", output)
        self.assertIsNone(report)


if __name__ == "__main__":
    unittest.main()
