"""What this machine has: GPUs by NVML, the CPU, and which device a run uses. Imports no torch."""
