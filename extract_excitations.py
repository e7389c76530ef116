"""Extracts the excitations of a model's SE blocks for every clip of a split."""

from tagger import cli

main = cli.main_of("excitations", "extract_excitations.py")

if __name__ == "__main__":
    cli.run(main)
