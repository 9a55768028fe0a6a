"""Streaming LoRA merge: adds an adapter to its base model tensor by tensor, with numpy on safetensors files."""
