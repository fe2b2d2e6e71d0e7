"""`python -m service` is `tts`."""

from service.cli import main

if __name__ == "__main__":
    main()
