"""What of ours runs inside vLLM's processes.

inspecting.py, one_tokenizer.py, processor.py   detours that vLLM and transformers are spared
warmup.py                                       real requests before anyone is let in
worker_memory.py                                what each part of the memory takes, asked in the worker
measured.py                                     the same in the plan's terms
"""
