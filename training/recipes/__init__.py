"""Recipes: numbered settings files that chain, from a folder of faces to a checkpoint; a folder for each set-up.

recipe        a recipe's steps, read and checked: what each step reads, an earlier one writes
settings_agreement what several steps' settings have to say alike
trackers      whether those that the trainers log with are installed
step_files    which files a step reads and writes
step_inputs   what a step is made from
step_records  which steps are done
recipe_output one output folder, one recipe
held_out_people that nobody whom one step keeps from training is trained on in another
planning      what a recipe will cost: `python -m training plan`
pilot_step    the pilot as a recipe's first step
pilot_command `python -m training pilot`: find the teachers' settings and write them into the recipe
teachers      `python -m training import`: existing LoRAs in place of the first step's
run           `python -m training run`: all steps of a recipe, each in a process of its own
"""
