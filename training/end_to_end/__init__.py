"""Train with the frozen base model's diffusion loss: fine-tune the LAE, then MIF and DiT, or train all of them jointly.

config               people per step, loss weights, rollouts
lae_objective        the loss of the autoencoder
rollout              latents that the network itself produces while sampling
denoiser_objective   the loss of MIF and DiT
recovery_metrics     teacher recovery
train                all three trainings
sampling_choice      the recommended sampling
settings             a YAML file for each command
inputs               base model, stores, validation people
command              `finetune`
joint_objective      the loss of all networks together
joint_start          networks that it begins with
joint_command        `train-teacher-free`
"""
