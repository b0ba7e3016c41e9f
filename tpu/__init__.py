"""Pods of TPUs: made, set up, trained on and removed by gcloud. Standard library only; no part of the wheel."""
