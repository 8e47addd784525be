#!/usr/bin/env bash
# Two machines of four GPUs under Slurm: sbatch launch/slurm.sh
# One torchrun a machine; the first machine of the job hosts the rendezvous. The same command starts
# the job and goes on with it: the checkpoint folder must be one that all machines see.
#SBATCH --job-name=ladder
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=01:00:00
set -euo pipefail

export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1  # a restart must not read dead processes' addresses
head_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)  # head would end scontrol by SIGPIPE, and so the script
export RENDEZVOUS="$head_node:$((20000 + SLURM_JOB_ID % 10000))"  # two jobs on a machine do not meet

# srun does not take --cpus-per-task over from sbatch (Slurm 22.05 and later)
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" bash -c 'exec torchrun \
  --nnodes="$SLURM_NNODES" \
  --nproc-per-node=4 \
  --max-restarts=3 \
  --rdzv-backend=c10d \
  --rdzv-id="$SLURM_JOB_ID" \
  --rdzv-endpoint="$RENDEZVOUS" \
  --rdzv-conf="is_host=$((SLURM_NODEID == 0))" \
  02_opt_multi_gpu_ddp.py --checkpoint "$SLURM_SUBMIT_DIR/checkpoints" "$@"' torchrun "$@"
