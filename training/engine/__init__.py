"""What all trainers share.

config          steps, optimizer, precision, processes; how often a run is evaluated
accelerator     Accelerate: device, precision, compiler, trackers
batches_ahead   loss functions, and batches that a worker thread draws while a step runs
loop            the training loop
state           what a run is resumed from
sharding        parameters that several processes share
evaluated_run   a run that its caller evaluates, the best weights kept
folder_lock     one folder, one writer
processes       several processes of one command
settings        YAML files
step_cost       what a training step costs
format          numbers as text
charts          line charts and histograms
"""
