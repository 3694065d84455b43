"""Train with the frozen base model's diffusion loss: fine-tune the LAE, then MIF and DiT, or train all of them jointly.

config             people per step, loss weights, rollouts
rollout            latents that the network itself produces while sampling
objectives         the losses of fine-tuning: of the autoencoder, of MIF and DiT
joint_objective    the loss of all networks together
recovery_metrics   teacher recovery
train              all three trainings
sampling_choice    the recommended sampling
settings           a YAML file for each command
inputs             what fine-tuning needs: base model, stores, validation people
command            `finetune`
joint_start        networks that joint training begins with
joint_inputs       what joint training needs
joint_command      `train-teacher-free`
"""
