"""`tandem bench kv`, `bench kv-quality` and `bench kernels` on the real program."""

import json
import os
import subprocess

from conftest import PATIENCE_S, REPOSITORY

DEMO = REPOSITORY / "models" / "demo"
GOLDEN = REPOSITORY / "tests" / "golden"
DONE, FAILED, USAGE = 0, 1, 2


def bench(*words):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TANDEM_")}
    return subprocess.run([os.environ["TANDEM_BINARY"], "bench", *map(str, words)], text=True,
                          capture_output=True, timeout=2 * PATIENCE_S, env=clean)


def report(*words):
    result = bench(*words, "-o", "json")
    assert result.returncode == DONE, result.stderr
    return json.loads(result.stdout)


def test_formats_move_the_demo_models_words_as_little_as_they_should():
    words = ["kv-quality", "--model", DEMO, "-r", 30]
    told = report(*words)
    formats = {each["format"]: each for each in told["formats"]}
    assert told["reference"] == "bf16"
    assert told["texts"] == 30
    assert [part["task"] for part in told["formats"][0]["tasks"]] == ["json", "sequence", "sum"]
    for each in told["formats"]:
        assert each["positions"] == told["positions"] > 600
        for parts in (each["tasks"], each["ranges"]):
            assert sum(part["positions"] for part in parts) == told["positions"]
            assert sum(part["same_top"] for part in parts) == each["same_top"]
    assert formats["q8"]["top_agreement"] >= 0.995
    assert formats["turbo4"]["top_agreement"] >= 0.97
    assert formats["q8"]["mean_kl"] < formats["turbo4"]["mean_kl"] < formats["turbo2"]["mean_kl"]
    again = report(*words)
    for name in ("formats", "positions"):
        assert again[name] == told[name]


def test_a_golden_checkpoint_is_asked_with_random_ids(tmp_path):
    plot = tmp_path / "plot.svg"
    told = report("kv-quality", "--model", GOLDEN / "26b-like" / "target", "-f", "f32,bf16,q8",
                  "--prompts", "random", "-r", 3, "-n", 20, "--plot", plot)
    assert told["prompts"].startswith("Random ids")
    assert told["texts"] == 3
    bf16 = told["formats"][1]
    assert (bf16["mean_kl"], bf16["top_agreement"], bf16["same_texts"]) == (0, 1, 3)
    picture = plot.read_text()
    assert ">q8</text>" in picture and ">bf16 (from f32)</text>" in picture


def test_bytes_and_times_of_a_published_shape():
    told = report("kv", "--model-shape", "e2b", "-f", "q8/turbo4", "-c", 64, "-s", 2, "-r", 1)
    full, sliding = told["groups"]
    assert (full["num_layers"], sliding["num_layers"]) == (3, 12)
    # K and V of one head in 8 and 4 bits with a scale each; a block of 32 tokens is padded to 256
    # bytes.
    for group, row_bytes in ((full, 3 * (512 + 2 + 256 + 2)), (sliding, 12 * (256 + 2 + 128 + 2))):
        assert 0 <= group["formats"][0]["bytes_per_token"] - row_bytes < 8
    assert [test["visible"] for test in told["attention"]] == [64, 64]
    for test in told["attention"]:
        assert test["sequences"] == 2
        assert len(test["formats"][0]["ratios"]) == 1
        assert test["formats"][0]["us_per_token"] > 0


def test_operations_of_a_published_shape_beside_copies():
    told = report("kernels", "--family", "norm,embed", "-r", 1, "--device", "cpu")
    assert told["model"] == "e2b"
    assert {each["family"] for each in told["operations"]} == {"norm", "embed"}
    one_row = told["operations"][0]
    assert (one_row["rows"], one_row["bytes"]) == (1, 1536 * (4 + 4 + 4))
    for each in told["operations"]:
        assert each["us"] > 0 and each["copy_share"] > 0, each


def test_what_can_not_be_measured_is_refused(tmp_path):
    for words, status, reason in (
            (["kernels", "--family", "gemm"], USAGE, "qkv-post"),
            (["kernels", "--family", "experts"], FAILED, "--model-shape 26b"),
            (["kv", "--formats", "q8,q5"], USAGE, "turbo4"),
            (["kv", "--formats", "compact"], USAGE, "compact"),
            (["kv", "--model", DEMO, "-s", "1000000", "-c", "8192"], FAILED, "--sequences"),
            (["kv-quality", "--model", DEMO, "-f", "compact"], FAILED, "compact"),
            (["kv-quality", "--model", DEMO, "--prompts", "/none"], FAILED, "/none"),
            (["kv-quality", "--model", GOLDEN / "26b-like" / "target"], FAILED, "--prompts random"),
            (["kv-quality", "--model", DEMO, "-f", "q8", "-r", 3, "--plot", tmp_path / "no" / "x"],
             FAILED, "--plot")):
        result = bench(*words)
        assert result.returncode == status, words
        assert reason in result.stderr
