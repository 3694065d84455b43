"""What a recipe will cost: measured figures of cards, scaled by arithmetic; without torch, except to measure.

cards           what was measured on a card, read from `cards/`
network_sizes   parameters, operations and activations of the networks, counted without torch
scaling         how measured figures carry over to other sizes
plan_row        a row of a plan, and what all rows are computed from
plan_pilot      what a pilot will cost
plan_dataset    what the dataset's stages will cost
plan_trainers   what the trainers' steps will cost
plan_evaluation what an evaluation will cost
plan            `python -m training plan`: what a recipe will cost, before anything of it is there
plan_measure    `plan --measure`: figures of the present machine
time_left       how long a recipe still takes
"""
