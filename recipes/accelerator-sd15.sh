#!/bin/sh
# The accelerator's published figures for SD 1.5, SDXL and a DiT: about five minutes on two free cores. No weights, no GPU, no network.
# What it prints and writes is committed in recipes/accelerator-sd15/ (tables and summaries; the pages are made anew).
#   sh recipes/accelerator-sd15.sh [FOLDER]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-out/accelerator-sd15}

for hardware in fp16-equal-area fp16-fixed fixed-ws fixed-os fixed-ws-shadow cdm-qta-64x64 cdm-qta-32x32 edge-npu \
    intaglio-64x64 intaglio-ws-64x64; do
    intaglio simulate --model sd15 --rank 16 --hardware "$hardware" --out "$out/$hardware"
done
for hardware in cdm-qta-64x64 intaglio-64x64 intaglio-ws-64x64; do
    intaglio compare-hardware --hardware "$hardware" --models sd15,sdxl,dit --methods lora,scales,full --ranks 4,16,64 \
        --out "$out/compare-$hardware"
done
intaglio explore --space "$here/accelerator-explore.toml" --model sd15 --rank 16 --out "$out/explore"
