"""The LoRA dataset: from a folder of faces to a store of thousands of LoRAs.

    collect → generate → filter → preprocess → dreambooth → pack → verify

Every stage reads what the stage before it left in the workspace, and processes one item (a person, or a group of people
that are trained together) after another. An item's record is written last: a killed stage loses the item in progress
and nothing else. A record keeps a fingerprint of what its item was made from: a second run makes again what would
now come out differently. `python -m training dataset <stage> --config FILE` runs them.

command: the command line
config: the settings of all stages
configured_base: the base model that the settings name
cost: what a run will take
manifest: what a stage has done
item_names: item names that are safe as file names
fingerprints: what a result depends on
prompt_files: prompts of generated images
stage: what a stage is, and how one item is processed
stage_run: running a stage: what it still has to do, a record for every item
workspace_lock: one workspace, one writer
stage_registry: the stages by name
cluster: a stage on many workers
images: image sources and face measurements
photomaker: PhotoMaker, which generates varied images of one person
stages: one module per stage
"""
