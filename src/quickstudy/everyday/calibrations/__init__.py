"""Calibrations of the encoders that come with the library, measured by `make calibrations` on pictures that do not."""
