"""``python -m faceresnet``: the same as the ``faceresnet`` command."""

from faceresnet.cli import main

if __name__ == "__main__":
    main()
