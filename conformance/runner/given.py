"""A broker somebody else runs, known by its URL alone."""

from urllib.parse import urlsplit


class Given:
    """Never started, never stopped, never put under memory pressure, and never told another setting."""

    def __init__(self, url, http=None):
        self.name = "url"
        self.url = url.rstrip("/")
        self.http = (http or f"http://{urlsplit(url).hostname}:15672").rstrip("/")

    def start(self):
        """It runs already."""

    def check_alive(self):
        """Its cases tell."""

    def stop(self):
        """It is not ours to stop."""
