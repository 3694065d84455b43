"""A whole recipe in a few minutes, see `__main__`.

cut_settings      a recipe's settings with few steps, people and prompts
measuring_models  models of metrics with random weights
inputs            all other models, and drawn people
child             one task in a process of its own
"""
