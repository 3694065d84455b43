"""Settings of the methods that DiffLoRA is compared with, chosen on validation people.

- `baseline_grid`: the settings that are tried.
- `baseline_table`: what was found of them, the choice, and its table.
- `baseline_choice`: their images; `python -m miniature choose-baselines`.
"""
