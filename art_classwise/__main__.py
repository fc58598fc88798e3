"""``python -m art_classwise``."""

from art_classwise.cli import main

main()
