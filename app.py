"""Timmscope's dashboard; also the entry point of a Hugging Face Space."""

from dashboard.launch import main

if __name__ == "__main__":
    main()
