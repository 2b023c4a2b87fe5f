"""Rebuild the base model from nothing: data, autoencoder, text encoder and U-Net, pictures for the model card.

    python -m pretrain                                        # two hours on a few cores, or much better on a GPU
    python -m pretrain --vae_minutes 20 --unet_minutes 60 --publish src/intaglio/assets/base

Every part resumes: run the command again after an interruption and it goes on where it stopped.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from pretrain.data import PACK

LOGS = Path(__file__).with_name("logs")


def run(module: str, *arguments: str) -> None:
    """One part in a process of its own, so that each frees its memory."""
    command = [sys.executable, "-m", f"pretrain.{module}", *arguments]
    print("+", " ".join(command[1:]), flush=True)
    done = subprocess.run(command)
    if done.returncode:
        raise SystemExit(f"pretrain.{module} failed; the same command goes on from the last checkpoint.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vae_minutes", default="30", help="autoencoder training")
    parser.add_argument("--unet_minutes", default="90", help="text encoder and U-Net training")
    parser.add_argument("--unet_batch_size", default="64", help="64 suits a CPU, 256 a GPU")
    parser.add_argument("--out", type=Path, default=Path("out/pretrain"), help="checkpoints and logs")
    parser.add_argument("--publish", type=Path, help="copy the finished pipeline into this folder")
    arguments = parser.parse_args()
    vae, unet = arguments.out / "vae", arguments.out / "unet"
    if not PACK.exists():
        run("data")
    run("train_vae", "--minutes", arguments.vae_minutes, "--out", str(vae), "--resume")
    run(
        "train_unet",
        *("--minutes", arguments.unet_minutes, "--batch_size", arguments.unet_batch_size),
        *("--vae", str(vae / "vae"), "--out", str(unet), "--resume"),
    )
    LOGS.mkdir(exist_ok=True)
    for name in ("vae", "unet"):
        shutil.copy(arguments.out / name / "log.csv", LOGS / f"{name}.csv")
    if arguments.publish:
        from pretrain.base import load_base, save_base

        save_base(load_base(unet / "base"), arguments.publish)
    run("sample", "--base", str(arguments.publish or unet / "base"))


if __name__ == "__main__":
    main()
