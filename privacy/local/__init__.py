"""Noise that every client adds for itself: on its whole update, or on its examples' gradients."""
