"""Images of people × prompts × seeds by all methods: planned first, then made where they are missing.

image_records      images on disk, tied to what they were made from
method_plans       what each method has to make
image_sizes        whether images of other programs have the size of the others
image_generation   what is missing is made, in this process
image_workers      the same in several processes, each with a device of its own
"""
