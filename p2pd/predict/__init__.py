"""Predicts which images will be pulled where, and preheats them within a budget (docs/predict.md)."""
