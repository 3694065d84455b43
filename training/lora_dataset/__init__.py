"""The LoRA weight pipeline: from a folder of faces to a store of thousands of LoRAs.

    collect → generate → filter → preprocess → dreambooth → pack → verify

Every stage reads what the stage before left in the workspace and does one item (a person, or a group of people that are
trained together) after another. An item's manifest entry is written last, so that a killed stage loses the item in hand
and nothing else. `python -m training dataset <stage> --config FILE` runs them.
"""
