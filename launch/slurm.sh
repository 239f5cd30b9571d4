#!/usr/bin/env bash
# sbatch launch/slurm.sh /shared/runs/first model=./my-model strategy=fsdp ...    the first argument is the run folder
#
# An experiment= brings its strategy and its precision; other runs say strategy=fsdp or strategy=ddp.
# One task per GPU (sbatch --ntasks-per-node=4 --gpus-per-node=4 launch/slurm.sh ... for half a node); Lightning
# reads ranks and addresses from SLURM. Submit from the clone, or from anywhere with the package installed. When the folder holds a run already, as it
# does when SLURM starts the job again, the run goes on from its newest checkpoint.
#SBATCH --job-name=pipo
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=USR1@600
# Ten minutes before its time is over, every task hears of it: finish the iteration, save, stop.
set -euo pipefail
FOLDER=${1:?the run folder}
shift

if [[ -f $FOLDER/config.yaml ]]; then
  ARGUMENTS=("resume=$FOLDER")
else
  ARGUMENTS=(
    "output_dir=$FOLDER"
    trainer.num_nodes="$SLURM_JOB_NUM_NODES" trainer.devices="$SLURM_NTASKS_PER_NODE" "$@"
  )
fi
srun --kill-on-bad-exit=1 python -m pipo train "${ARGUMENTS[@]}"
