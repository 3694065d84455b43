"""Fine-tune the LAE, then MIF and DiT, with the frozen base model's diffusion loss.

config               people per step, loss weights, rollouts
lae_objective        the loss of the autoencoder
rollout              what the network meets while sampling
denoiser_objective   the loss of MIF and DiT
recovery_metrics     teacher recovery
train                both trainings
sampling_choice      the recommended sampling
settings             one YAML file
inputs               base model, stores, validation people
command              `finetune`
"""
