"""Methods: what makes images of a person from references and prompts. Each is a module behind one small interface.

method             what a method is
shared_base        the one base model of all methods without a graph of their own
no_lora            the base model alone
made_files         what methods share that make a file of a person
loras              LoRAs: given, averaged, regressed, predicted, trained
reference_pixels   references as training images
own_copy           what methods share that change a copy of the base model
learned_token      Textual Inversion on the references
instant_id         InstantID: face embedding and keypoints
photomaker_v1      PhotoMaker: references → identity embedding
given_images       images that another program has made
workflow_file      a workflow in ComfyUI's API format, with placeholders
comfyui_workflow   images by that workflow, queued on a running ComfyUI
method_list        methods by their settings
"""
