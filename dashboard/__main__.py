"""``python -m dashboard``."""

from dashboard.launch import main

if __name__ == "__main__":
    main(f"python -m {main.__module__.removesuffix('.launch')}")
