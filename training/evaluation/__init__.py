"""Evaluation of any method by the same images, metrics and statistics: `python -m training evaluate`.

method_settings    a method: a row of the tables
settings           what is evaluated, how, and by what
people_folders     who: references, and images that no method sees
dataset            who in its place: people of a recipe's dataset, and their teachers
prompt_list        prompts by kind
methods            what makes images: LoRAs, DiffLoRA, PhotoMaker, other programs
generation         images that are missing are made, and tied to what they were made from
metrics            what is measured of generated images, a module for each metric
metric_list        metrics by their settings
json_files         JSON files that say what they were made from
score_files        scores on disk, measured again only where something has changed
set_scores         FID and KID of all images of a method
statistics         from values of images to a method's mean with its interval, and to differences between methods
results            from scores to methods' means, differences and costs
report             Markdown, JSON and contact sheets
evaluation_run     all of it
command            the command line
"""
