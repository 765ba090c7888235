"""Trains, calibrates and evaluates drafters for Tandem. docs/training.md is the way in."""

__version__ = "0.1.0"
