"""System packages that single tests need: installed with apt when root on Debian, otherwise named. Never fails: the
tests that miss one are skipped, and say so."""

import os
import shutil
import subprocess

NEEDED = {"espeak-ng": "espeak-ng", "chromium": "chromium"}  # program: Debian package


def main() -> None:
    missing = [package for program, package in NEEDED.items() if not shutil.which(program)]
    if not missing:
        return
    if os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"Installing {', '.join(missing)} with apt …", flush=True)
        for command in (["update", "-q"], ["install", "-y", "-q", *missing]):
            subprocess.run(["apt-get", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    still = [package for package in missing if not shutil.which(package)]
    if still:
        print(f"Not installed: {', '.join(still)} (apt install {' '.join(still)}); the tests that need it are skipped.")


if __name__ == "__main__":
    main()
