"""Presets from the configurations of axolotl, LLaMA-Factory, TRL and PEFT."""
