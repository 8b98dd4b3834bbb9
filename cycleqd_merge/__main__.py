"""`python -m cycleqd_merge`, and with it `accelerate launch -m cycleqd_merge`."""

from cycleqd_merge.cli import main

if __name__ == "__main__":
    main()
