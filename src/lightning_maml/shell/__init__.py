"""What stands between a terminal and Hydra: one-line errors, `--help`, settings checked before they are used."""
