"""`python -m toycity ROOT`: render the toy data set."""

import argparse

from toycity.config import ToyCityConfig
from toycity.writer import write_toycity


def main(arguments: list[str] | None = None) -> None:
    """The command line of the toy city."""
    parser = argparse.ArgumentParser(prog="python -m toycity", description=__doc__)
    parser.add_argument("root", help="the folder to render into; it is made if need be")
    parser.add_argument(
        "--image-size", type=int, nargs="+", default=[112], help="side, or height and width"
    )
    parser.add_argument("--small", action="store_true", help="a set that renders in seconds")
    parser.add_argument("--workers", type=int, help="processes (default: one a core)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(arguments)
    size = options.image_size
    config = (ToyCityConfig.small if options.small else ToyCityConfig)(
        image_size=size[0] if len(size) == 1 else tuple(size)
    )
    print(write_toycity(options.root, config, workers=options.workers, progress=not options.quiet))


if __name__ == "__main__":
    main()
