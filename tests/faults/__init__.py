"""Faults that happen to trainings, by kind; each is a function that injects one, and checks what is left."""
