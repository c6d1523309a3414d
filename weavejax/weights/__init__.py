"""Weights in and out: safe reading of files that others wrote."""
