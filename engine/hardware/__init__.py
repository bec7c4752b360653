"""The hardware of this machine: GPUs by NVML, CPU features. Imports no torch."""
