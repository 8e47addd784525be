#!/usr/bin/env bash
# Two machines of four GPUs under Slurm: sbatch launch/slurm.sh
# One torchrun a machine; the first machine of the job hosts the rendezvous.
#SBATCH --job-name=ladder
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=01:00:00
set -euo pipefail

export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1  # a restart must not read dead processes' addresses
head_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# the checkpoint folder must be one that all machines see
srun torchrun \
  --nnodes="$SLURM_NNODES" \
  --nproc-per-node=4 \
  --max-restarts=3 \
  --rdzv-id="$SLURM_JOB_ID" \
  --rdzv-backend=c10d \
  --rdzv-endpoint="$head_node:29500" \
  02_opt_multi_gpu_ddp.py --checkpoint "$SLURM_SUBMIT_DIR/checkpoints" "$@"
