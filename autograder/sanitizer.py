"""Where notebooks released before December 2026 find `watch`; now it is `from autograder import watch`."""

from autograder.inside.sanitizer import watch

__all__ = ["watch"]
