"""The two ways a broker cannot be had; only the first may leave something out."""


class Missing(Exception):
    """This machine has no such broker; the message says so in one line."""


class Failed(Exception):
    """The broker is here but does not serve."""
