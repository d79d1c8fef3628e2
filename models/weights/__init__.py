"""The shipped models: a safetensors file and a card each."""
