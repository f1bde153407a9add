"""Pure functions from pictures and sound to figures of quality; each names its source."""
