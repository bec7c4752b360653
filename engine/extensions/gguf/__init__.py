"""GGUF files for llama.cpp and Ollama: written from merged weights, quantized, and checked with llama.cpp itself."""
