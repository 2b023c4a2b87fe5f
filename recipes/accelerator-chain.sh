#!/bin/sh
# train -> trace -> simulate -> report, on the base model and the photos that ship: a few steps of training, one of them
# recorded, and what that step would cost on two accelerators. Minutes on two cores; no GPU, no network.
#   sh recipes/accelerator-chain.sh [FOLDER] [METHOD]
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
out=${1:-out/chain}
method=${2:-int8_lora}

intaglio train --method "$method" --base int8 --rank 8 --max_train_steps 3 --train_batch_size 1 --report_to none \
    --instance_data_dir "$here/src/intaglio/assets/cat/train" --instance_prompt "a photo of sks cat" \
    --output_dir "$out/adapter" --trace_step 2 --hardware cdm-qta-64x64
for hardware in cdm-qta-64x64 intaglio-64x64; do
    intaglio simulate --trace "$out/adapter/trace.jsonl" --hardware "$hardware" --out "$out/$hardware"
done
echo "open $out/cdm-qta-64x64/report.html"
