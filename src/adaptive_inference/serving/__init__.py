"""Predict with a saved model, describe it, hand it out."""
