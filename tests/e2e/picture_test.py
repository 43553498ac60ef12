"""tools/terminal_picture.py: a session as a person would see it, drawn."""

import subprocess
import sys
import xml.etree.ElementTree

from conftest import PATIENCE_S, REPOSITORY

TOOL = REPOSITORY / "tools" / "terminal_picture.py"
# Asks twice, dims a word, takes another back, and draws over a line.
PROGRAM = r"""
for word in one two; do
  printf '> '; read -r line
  printf 'wrong\r\033[K\033[2mheard\033[0m <%s>\n' "$line"
done
"""


def drawn(tmp_path, *typed):
    """Exit code, and the texts of the picture with their colours."""
    picture = tmp_path / "picture.svg"
    words = [word for line in typed for word in ("--type", line)]
    ended = subprocess.run([sys.executable, TOOL, "--output", picture, *words, "--", "bash", "-c",
                            PROGRAM], capture_output=True, text=True, timeout=3 * PATIENCE_S)
    if not picture.exists():
        return ended.returncode, []
    texts = xml.etree.ElementTree.parse(picture).iter("{http://www.w3.org/2000/svg}text")
    return ended.returncode, [(text.text, text.get("fill")) for text in texts][1:]  # not the title


def test_the_picture_has_what_was_typed_and_answered(tmp_path):
    code, texts = drawn(tmp_path, "a & b", "Grüße")
    assert code == 0
    assert [text for text, _ in texts] == ["> a & b", "heard", "<a & b>", "> Grüße", "heard",
                                           "<Grüße>"]
    assert texts[1][1] != texts[2][1]  # dimmed


def test_a_program_that_ends_too_soon_gives_no_picture(tmp_path):
    code, texts = drawn(tmp_path, "one", "two", "three")
    assert code != 0 and texts == []
