"""A broker somebody else runs, known by its URL alone."""


class Given:
    """Never started, never stopped, never put under memory pressure, and never told another setting."""

    def __init__(self, url):
        self.name = "url"
        self.url = url.rstrip("/")

    def start(self):
        """It runs already."""

    def check_alive(self):
        """Its cases tell."""

    def stop(self):
        """It is not ours to stop."""
