"""What a person sees while a long run goes on: one line that moves, or nothing where nobody looks."""

import sys


class Progress:
    """Progress on standard error, so that standard output holds the table alone."""

    def __init__(self, stream=sys.stderr):
        self.stream = stream
        self.moving = stream.isatty()
        self.step = None

    def show(self, text):
        """The step that runs now; where lines cannot be rewritten only each new client is worth a line."""
        if self.moving:
            self.stream.write(f"\r\x1b[K{text[:110]}")
            self.stream.flush()
        elif text.split(":")[0] != self.step:
            self.step = text.split(":")[0]
            print(f"... {self.step}", file=self.stream, flush=True)

    def say(self, text):
        """A line that stays."""
        if self.moving:
            self.stream.write("\r\x1b[K")
        print(text, file=self.stream, flush=True)

    def done(self):
        """Leave a clean line behind."""
        if self.moving:
            self.stream.write("\r\x1b[K")
            self.stream.flush()
