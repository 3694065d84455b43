"""The paper's toy experiment: are LoRA weights easier to compress than full weight changes?"""
