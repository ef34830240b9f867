"""From conversations to a trained model. Needs torch and transformers, not vLLM; the command is serving/demo/train.py."""
