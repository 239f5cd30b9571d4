#!/usr/bin/env bash
# Several nodes without a scheduler: run this on every one of them, with the same arguments.
#
#   NODES=2 HEAD=node-1:29500 launch/torchrun.sh output_dir=/shared/runs/first model=./my-model strategy=fsdp ...
#
# In the clone, or anywhere with the package installed. An experiment= brings its strategy and its precision; other runs say strategy=fsdp or strategy=ddp.
# output_dir lies on storage that all nodes see. After an interruption, the same with resume=<the folder> in
# place of all other arguments.
# GRACE_S: seconds that an interrupted run has to finish its iteration and save, before it is killed.
set -euo pipefail
: "${NODES:?how many nodes}" "${HEAD:?host:port of the first node}"
: "${PER_NODE:=$(nvidia-smi --list-gpus | wc -l)}"
SHAPE=(trainer.num_nodes="$NODES" trainer.devices="$PER_NODE")
case " $*" in *" resume="*) SHAPE=() ;; esac # a resumed run has its own

exec python -m torch.distributed.run \
  --nnodes="$NODES" --nproc-per-node="$PER_NODE" \
  --shutdown-timeout="${GRACE_S:-1800}" \
  --rdzv-backend=c10d --rdzv-endpoint="$HEAD" --rdzv-id="${RUN_ID:-pipo}" \
  -m pipo train "${SHAPE[@]}" "$@"
