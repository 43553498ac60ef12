"""Runs a program in a terminal of its own, types what it is told, and draws the last screen as SVG.

    tools/terminal_picture.py --output docs/chat.svg --wait '> ' \
        --type 'Hello' --type '/quit' -- build/release/bin/tandem chat

Every --type is typed, with the return key behind it, once the screen's last line ends with the text
of --wait. The picture needs no font but a monospaced one, and holds no script. Only the standard
library is used.
"""

import argparse
import fcntl
import html
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
import unicodedata

PATIENCE_S = 120
SGR = {1: "bold", 2: "dim", 31: "red", 32: "green", 33: "yellow", 34: "blue", 36: "cyan"}
COLORS = {"red": "#ff7b72", "green": "#7ee787", "yellow": "#e3b341", "blue": "#79c0ff",
          "cyan": "#76e3ea"}
BACKGROUND, FRAME, TEXT, DIM, TITLE = "#0d1117", "#30363d", "#e6edf3", "#8b949e", "#8b949e"
CELL_WIDTH, CELL_HEIGHT, FONT_SIZE, MARGIN, TITLE_HEIGHT = 8.4, 20, 14, 16, 36


class Screen:
    """What a terminal shows: rows of (character, style) under a cursor that escapes move."""

    ESCAPE = re.compile(r"\x1b(?:\[([0-9;?]*)([@-~])|[()][A-Z0-9]|[=>78DEHM])")

    def __init__(self, columns):
        self.columns = columns
        self.rows = [[]]
        self.row = self.column = 0
        self.style = frozenset()
        self.rest = ""  # the start of an escape

    def feed(self, text):
        text, self.rest = self.rest + text, ""
        at = 0
        while at < len(text):
            if text[at] == "\x1b":
                if not (match := self.ESCAPE.match(text, at)):
                    if len(text) - at < 16:
                        self.rest = text[at:]
                        return
                    at += 1
                    continue
                self.escape(match[1], match[2])
                at = match.end()
                continue
            self.put(text[at])
            at += 1

    def put(self, character):
        if character == "\n":
            self.row += 1
        elif character == "\r":
            self.column = 0
        elif character == "\b":
            self.column = max(0, self.column - 1)
        elif character == "\t":
            self.column = min(self.columns - 1, self.column // 8 * 8 + 8)
        elif character >= " " and not unicodedata.combining(character):
            if self.column >= self.columns:
                self.row, self.column = self.row + 1, 0
            line = self.line()
            line += [(" ", frozenset())] * (self.column + 1 - len(line))
            line[self.column] = (character, self.style)
            self.column += 1

    def line(self):
        while len(self.rows) <= self.row:
            self.rows.append([])
        return self.rows[self.row]

    def escape(self, parameters, command):
        numbers = [int(number) for number in re.findall(r"\d+", parameters or "")]
        count = numbers[0] if numbers else 1
        if command == "m":
            for number in numbers or [0]:
                self.style = frozenset() if number == 0 else self.style | {SGR.get(number, "")}
        elif command == "K":
            del self.line()[self.column:]
        elif command == "J":
            del self.line()[self.column:]
            del self.rows[self.row + 1:]
        elif command == "A":
            self.row = max(0, self.row - count)
        elif command == "B":
            self.row += count
        elif command == "C":
            self.column += count
        elif command == "D":
            self.column = max(0, self.column - count)
        elif command == "G":
            self.column = count - 1
        elif command == "P":
            del self.line()[self.column:self.column + count]
        elif command == "@":
            self.line()[self.column:self.column] = [(" ", frozenset())] * count

    def last_line(self):
        return "".join(character for character, _ in self.line())


def record(command, typed, wait, columns, rows):
    """The screen when the program has ended."""
    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
    process = subprocess.Popen(command, stdin=writer, stdout=writer, stderr=writer, env=environment,
                               start_new_session=True)
    os.close(writer)
    screen = Screen(columns)
    pending = list(typed)
    end = time.monotonic() + PATIENCE_S
    decoder = ""
    while time.monotonic() < end:
        if select.select([reader], [], [], 0.2)[0]:
            try:
                chunk = os.read(reader, 65536)
            except OSError:  # the program has closed the terminal
                break
            if not chunk:
                break
            decoder += chunk.decode("latin-1")
            raw = decoder.encode("latin-1")
            try:
                text, decoder = raw.decode(), ""
            except UnicodeDecodeError as error:
                if error.start < len(raw) - 3:
                    raise
                text, decoder = raw[:error.start].decode(), raw[error.start:].decode("latin-1")
            screen.feed(text)
        elif pending and screen.last_line().endswith(wait):
            os.write(reader, (pending.pop(0) + "\r").encode())
    os.close(reader)
    if process.wait(PATIENCE_S) != 0 or pending:
        sys.exit(f"the program ended with {process.returncode}, {len(pending)} lines not typed:\n"
                 + "\n".join("".join(c for c, _ in row) for row in screen.rows))
    return screen


def fill_of(style):
    for name, color in COLORS.items():
        if name in style:
            return color
    return DIM if "dim" in style else TEXT


def spans(row):
    """Runs of one style: (column, style, text)."""
    runs = []
    for column, (character, style) in enumerate(row):
        if runs and runs[-1][1] == style:
            runs[-1][2] += character
        else:
            runs.append([column, style, character])
    return runs


def svg(rows, columns, title):
    while rows and not "".join(character for character, _ in rows[-1]).strip():
        rows = rows[:-1]
    width = 2 * MARGIN + columns * CELL_WIDTH
    height = TITLE_HEIGHT + len(rows) * CELL_HEIGHT + MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{html.escape(title)}">',
        f'<rect x="0.5" y="0.5" width="{width - 1:.0f}" height="{height - 1:.0f}" rx="8" '
        f'fill="{BACKGROUND}" stroke="{FRAME}"/>']
    for x, color in ((18, "#ff5f57"), (36, "#febc2e"), (54, "#28c840")):
        lines.append(f'<circle cx="{x}" cy="18" r="5.5" fill="{color}"/>')
    lines.append('<g font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, '
                 f"'DejaVu Sans Mono', monospace\" font-size=\"{FONT_SIZE}\" xml:space=\"preserve\">")
    lines.append(f'<text x="{width / 2:.0f}" y="23" text-anchor="middle" fill="{TITLE}">'
                 f'{html.escape(title)}</text>')
    for number, row in enumerate(rows):
        y = TITLE_HEIGHT + number * CELL_HEIGHT + FONT_SIZE
        for column, style, text in spans(row):
            if not text.strip():
                continue
            blanks = len(text) - len(text.lstrip())
            x = MARGIN + (column + blanks) * CELL_WIDTH
            text = text.strip()
            weight = ' font-weight="bold"' if "bold" in style else ""
            # The length is given, so that any monospaced font fills the same cells.
            lines.append(f'<text x="{x:.1f}" y="{y}" textLength="{len(text) * CELL_WIDTH:.1f}" '
                         f'lengthAdjust="spacingAndGlyphs" fill="{fill_of(style)}"{weight}>'
                         f'{html.escape(text)}</text>')
    return "\n".join(lines + ["</g>", "</svg>", ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", required=True, help="the SVG file")
    parser.add_argument("--type", action="append", default=[], help="a line to type; repeatable")
    parser.add_argument("--wait", default="> ", help="what the last line ends with when it may be")
    parser.add_argument("--columns", type=int, default=92)
    parser.add_argument("--title", default="", help="default: the command")
    parser.add_argument("--skip", type=int, default=0, help="rows to leave out at the end")
    parser.add_argument("command", nargs="+")
    words = parser.parse_args()
    title = words.title or " ".join([os.path.basename(words.command[0]), *words.command[1:]])
    screen = record(words.command, words.type, words.wait, words.columns, rows=60)
    rows = screen.rows[:len(screen.rows) - words.skip] if words.skip else screen.rows
    with open(words.output, "w", encoding="utf-8") as file:
        file.write(svg(rows, words.columns, title))


if __name__ == "__main__":
    main()
